#!/usr/bin/env bash
# Pillow and PNG with a transparent color (tRNS) of other than 8 bits: nothing becomes transparent, or the wrong color.
#
# A PNG of gray or RGB pixels may name one value that is transparent, in the file's own bits. Pillow scales the
# pixels to 8 bits and leaves that value as it is: of 2 and 4 bit gray only 0 is still found. Pixels of
# 16 bit RGB lose their low bytes and the value its high ones: there 0x0500 makes black transparent. No error
# or warning says so. The PNG specification has the value compared before any scaling, as pypng does.
#
# Seen on 2026-11-28 with Pillow 11.3.0 and 13.0.0, beside pypng 0.20220715.0, of each gray value by itself:
#
#     1 bit          pypng: 2 of 2    Pillow: 1 of 2 (11.3.0), 2 of 2 (13.0.0)
#     2 bits         pypng: 4 of 4    Pillow: 1 of 4
#     4 bits         pypng: 16 of 16  Pillow: 1 of 16
#     8 bits         both: 256 of 256
#     RGB, 16 bits, 0x0500 each, of (0x0500 ...) and (0 ...):  pypng: the first  Pillow: the second
set -euo pipefail
python="${PYTHON:-python3}" # 3.10 or later
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/env"
cat >"$folder/clear.py" <<'PYTHON'
import io
import struct
import zlib

import PIL
import png
from PIL import Image


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def file(bits, kind, values, width, clear):
    row = "".join(f"{value:0{bits}b}" for value in values)
    row += "0" * (-len(row) % 8)
    head = struct.pack(">IIBBBBB", width, 1, bits, kind, 0, 0, 0)
    pixels = zlib.compress(b"\0" + int(row, 2).to_bytes(len(row) // 8, "big"))
    names = (b"IHDR", head), (b"tRNS", struct.pack(f">{len(clear)}H", *clear)), (b"IDAT", pixels), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in names)


def clear_pixels(data):
    """The places where either library makes a pixel transparent."""
    alpha = Image.open(io.BytesIO(data)).convert("RGBA").getchannel("A").tobytes()
    other = bytes(min(value, 255) for value in list(png.Reader(bytes=data).asRGBA()[2])[0][3::4])
    return [[place for place, value in enumerate(each) if value == 0] for each in (other, alpha)]


print("Pillow", PIL.__version__)
found = {}
for bits in 1, 2, 4, 8:
    grays = range(2**bits)
    seen = [clear_pixels(file(bits, 0, grays, len(grays), [gray])) for gray in grays]
    found[bits] = [sum(each[which] == [gray] for gray, each in enumerate(seen)) for which in (0, 1)]
    print(f"  gray, {bits} bits: pypng: {found[bits][0]} of {2**bits}  Pillow: {found[bits][1]} of {2**bits}")
color = clear_pixels(file(16, 2, [0x0500] * 3 + [0] * 3, 2, [0x0500] * 3))
print(f"  RGB, 16 bits, of (0x0500 ...) and (0 ...): pypng: {color[0]}  Pillow: {color[1]}")
one = 1 if PIL.__version__ == "11.3.0" else 2
assert found == {1: [2, one], 2: [4, 1], 4: [16, 1], 8: [256, 256]} and color == [[0], [1]]
PYTHON
for version in 11.3.0 13.0.0; do
  "$folder/env/bin/pip" install -q pypng==0.20220715.0 pillow=="$version"
  "$folder/env/bin/python" "$folder/clear.py"
done
