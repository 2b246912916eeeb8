#!/usr/bin/env bash
# Pillow and gray TIFF files in which 0 is white: with 8 bits it inverts them, with 16 bits it does not.
#
# So whoever reads both and divides by the largest value has a picture and a negative. tifffile returns the
# values of the file for either and leaves their meaning to the caller.
#
# Seen on 2026-11-28 with Pillow 11.3.0 and 13.0.0, tifffile 2025.5.10, of the values 0, 1/5 ... 1 of full:
#
#     8 bits   Pillow (L)     255 204 153 102 51 0             tifffile  0 51 102 153 204 255
#     16 bits  Pillow (I;16)  0 13107 26214 39321 52428 65535  tifffile  the same
set -euo pipefail
python="${PYTHON:-python3}" # 3.10 or later
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/env"
cat >"$folder/white.py" <<'PYTHON'
import io

import numpy as np
import PIL
import tifffile
from PIL import Image

print("Pillow", PIL.__version__)
for kind, full in (np.uint8, 255), (np.uint16, 65535):
    values = (np.arange(6) * (full // 5)).astype(kind)[None]
    file = io.BytesIO()
    tifffile.imwrite(file, values, photometric="miniswhite")
    image = Image.open(io.BytesIO(file.getvalue()))
    seen, other = np.asarray(image), tifffile.imread(io.BytesIO(file.getvalue()))
    print(f"  {kind.__name__:6}  Pillow ({image.mode})", *seen[0], " tifffile", *other[0])
    assert np.array_equal(other, values)
    assert np.array_equal(seen, full - values if kind is np.uint8 else values)
PYTHON
for version in 11.3.0 13.0.0; do
  "$folder/env/bin/pip" install -q tifffile==2025.5.10 numpy==2.2.6 pillow=="$version"
  "$folder/env/bin/python" "$folder/white.py"
done
