"""The numbers of PGM and PPM files of any depth, which Pillow would round to 8 or 16 bits."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from PIL import Image

_COMMENT = re.compile(rb"#[^\r\n]*")


def largest(picture: Image.Image) -> int | None:
    """White in a PGM or PPM that is not loaded yet (its "maxval"); None for other pictures."""
    if picture.format != "PPM" or picture.mode not in ("L", "I", "RGB"):
        return None
    decoder, _, _, arguments = picture.tile[0]
    if decoder in ("ppm", "ppm_plain"):
        return int(arguments[-1])
    return 65535 if picture.mode == "I" else 255


def samples(picture: Image.Image, path: str | Path) -> np.ndarray:
    """All numbers of a PGM or PPM, (height, width, 1 or 3), uint8 or uint16.

    ``picture`` gives the header. Raises ValueError if numbers are missing or larger than white.
    """
    white = largest(picture)
    decoder, _, offset, _ = picture.tile[0]
    shape = (picture.height, picture.width, 3 if picture.mode == "RGB" else 1)
    count = shape[0] * shape[1] * shape[2]
    with open(path, "rb") as file:
        file.seek(offset)
        if decoder == "ppm_plain":
            words = _COMMENT.sub(b"", file.read()).split(None, count)[:count]
            values = np.array(words, dtype=bytes).astype(np.int64)
        else:
            values = np.fromfile(file, "u1" if white < 256 else ">u2", count)
    if len(values) < count:
        raise ValueError(f"it has {len(values)} of {count} numbers")
    if values.min() < 0 or values.max() > white:
        raise ValueError(f"a number is not within 0 and {white}")
    return values.astype(np.uint8 if white < 256 else np.uint16).reshape(shape)
