#!/usr/bin/env bash
# Pillow reads an uncompressed 16 bit RGB TIFF whose colors lie in planes of their own as if it had 8 bits: every
# other pixel is made of low bytes, which look like noise, and the lower half of the picture is missing.
#
# No error or warning says so. The same file compressed, or with its colors interleaved, comes as the high bytes.
#
# Seen on 2026-11-28 with Pillow 11.3.0 and 13.0.0, files by tifffile 2025.5.10, which reads each as it was:
#
#     interleaved        the high bytes
#     planes, compressed the high bytes
#     planes             the low byte of a pixel, its high byte, the low byte of the next one, ...;
#                        a row of the file makes two rows
set -euo pipefail
python="${PYTHON:-python3}" # 3.10 or later
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/env"
cat >"$folder/planes.py" <<'PYTHON'
import io

import numpy as np
import PIL
import tifffile
from PIL import Image

print("Pillow", PIL.__version__)
pixels = np.random.default_rng(0).integers(0, 65536, (8, 8, 3), np.uint16)
high, low = pixels >> 8, pixels & 255
mixed = np.stack([low, high], 2).reshape(16, 8, 3)[:8]
planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
cases = {
    "interleaved": (pixels, "contig", None),
    "planes, compressed": (planes, "separate", "zlib"),
    "planes": (planes, "separate", None),
}
for name, (array, layout, packing) in cases.items():
    file = io.BytesIO()
    tifffile.imwrite(file, array, photometric="rgb", planarconfig=layout, compression=packing, byteorder="<")
    seen = np.asarray(Image.open(io.BytesIO(file.getvalue())))
    known = {"high bytes": high, "low and high in turn": mixed}
    found = [what for what, each in known.items() if np.array_equal(seen, each)]
    print(f"  {name:19} {seen.dtype} {seen.shape}: {found}")
    assert np.array_equal(tifffile.imread(io.BytesIO(file.getvalue())), array)
    assert found == (["low and high in turn"] if name == "planes" else ["high bytes"])
PYTHON
for version in 11.3.0 13.0.0; do
  "$folder/env/bin/pip" install -q tifffile==2025.5.10 numpy==2.2.6 pillow=="$version"
  "$folder/env/bin/python" "$folder/planes.py"
done
