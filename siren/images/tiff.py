"""TIFFs: their pages, which kinds are read, and what Pillow would misunderstand of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImagePalette, TiffImagePlugin

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the first bytes of TIFF and BigTIFF

# Tags.
_NEW_KIND, _OLD_KIND, _WIDTH, _HEIGHT = 254, 255, 256, 257
_BITS, _COMPRESSION, _COLOR, _SAMPLES, _PLANES, _KIND = 258, 259, 262, 277, 284, 339
_DESCRIPTION, _COLOR_MAP, _EXTRA, _SUBSAMPLING, _DEPTH = 270, 320, 338, 530, 32997

_KINDS = {1: "unsigned integer", 2: "signed integer", 3: "floating-point"}
# The compressions that are read: none, CCITT (three kinds), LZW, JPEG (two), Deflate (two),
# PackBits, LZMA, Zstandard and WebP.
_COMPRESSIONS = (1, 2, 3, 4, 5, 6, 7, 8, 32946, 32773, 34925, 50000, 50001)
# Of 8-bit numbers in separate planes: color, samples, extra samples (2: opacity).
_SEPARATE_PLANES = ((2, 3, ()), (2, 4, (2,)), (5, 4, ()))
_WHITE_IS_ZERO, _YCBCR = 0, 6
_SIGNED = 2
_MAX_PAGES = 1 << 16  # more are not looked at


class Page(NamedTuple):
    """The size of a TIFF's page in pixels, and whether it is a thumbnail or a mask of another."""

    height: int
    width: int
    is_reduced: bool
    is_mask: bool


def pages(path: str | Path) -> list[Page]:
    """All pages of a TIFF, in order; those after a damaged one are left out."""
    found, seen = [], set()
    with open(path, "rb") as file:
        tags = _directory(file)
        while tags.next and tags.next not in seen and len(found) < _MAX_PAGES:
            seen.add(tags.next)
            try:
                file.seek(tags.next)
                tags.load(file)
                kind = tags.get(_NEW_KIND, 0)
                reduced = bool(kind & 1) or tags.get(_OLD_KIND) == 2
                size = int(tags.get(_HEIGHT, 0)), int(tags.get(_WIDTH, 0))
                found.append(Page(*size, reduced, bool(kind & 4)))
            except Exception:  # on damaged files Pillow raises nearly anything
                break
    return found or [Page(0, 0, False, False)]


def stacked(picture: Image.Image) -> int:
    """How many pictures ImageJ says are in a TIFF; it may store many in one page. 1: not told."""
    description = str(picture.tag_v2.get(_DESCRIPTION, ""))
    count = re.search(r"^images=(\d{1,9})\s*$", description, re.MULTILINE)
    return int(count[1]) if count and description.startswith("ImageJ=") else 1


def is_exact(picture: Image.Image) -> bool:
    """Whether a TIFF that Pillow has opened is of a kind of which it reads the exact numbers."""
    tags = picture.tag_v2
    bits, samples, color = max(tags.get(_BITS, (1,))), tags.get(_SAMPLES, 1), tags.get(_COLOR)
    layout = color, samples, tuple(tags.get(_EXTRA, ()))
    has_planes = tags.get(_PLANES) == 2 and samples > 1
    is_signed = tags.get(_KIND, (1,))[0] == _SIGNED
    has_coarse_colors = tuple(tags.get(_SUBSAMPLING, (2, 2))) != (1, 1)
    return (
        tags.get(_COMPRESSION, 1) in _COMPRESSIONS
        and tags.get(_DEPTH, 1) <= 1
        and (not is_signed or bits > 8)
        and (not has_planes or (bits == 8 and layout in _SEPARATE_PLANES))
        and (color != _YCBCR or is_compressed(picture) or not has_coarse_colors)
    )


def describe(path: str | Path) -> str:
    """The numbers that a TIFF has, in words."""
    try:
        with open(path, "rb") as file:
            tags = _directory(file)
            file.seek(tags.next)
            tags.load(file)
        samples, bits = tags.get(_SAMPLES, 1), max(tags.get(_BITS, (1,)))
        kind = _KINDS.get(tags.get(_KIND, (1,))[0], "complex")
    except Exception:  # on damaged files Pillow raises nearly anything
        return "damage, or an unusual header"
    planes = " in separate planes" if tags.get(_PLANES) == 2 and samples > 1 else ""
    return f"{samples} {kind} value{'s' * (samples > 1)} of {bits} bits a pixel{planes}"


def _directory(file) -> TiffImagePlugin.ImageFileDirectory_v2:
    """The directory of a TIFF, not loaded yet: ``next`` is the position of its first page."""
    header = file.read(8)
    if 43 in header[2:4]:  # BigTIFF
        header += file.read(8)
    return TiffImagePlugin.ImageFileDirectory_v2(header)


def is_compressed(picture: Image.Image) -> bool:
    """Whether libtiff decodes this TIFF, not Pillow itself."""
    return any(tile[0] == "libtiff" for tile in picture.tile)


def white_is_zero(picture: Image.Image) -> bool:
    """Whether it is a TIFF whose largest value is black; Pillow inverts only those of 8 bits."""
    return picture.format == "TIFF" and picture.tag_v2.get(_COLOR) == _WHITE_IS_ZERO


def is_premultiplied(picture: Image.Image) -> bool:
    """Whether it is a TIFF whose colors have been multiplied by their opacity."""
    return picture.format == "TIFF" and tuple(picture.tag_v2.get(_EXTRA, ()))[:1] == (1,)


def has_wrong_byte_order(picture: Image.Image) -> bool:
    """Whether Pillow would assume the file's byte order for values that are in the machine's.

    That happens with 32-bit values in a compressed file: libtiff converts them.
    """
    return picture.format == "TIFF" and picture.mode in ("I", "F") and is_compressed(picture)


def correct_palette(picture: Image.Image) -> None:
    """Take a palette of 8-bit numbers for what it is; TIFF wants 16 bits, and Pillow assumes them.

    Tools of libtiff do the same.
    """
    if picture.format == "TIFF" and picture.mode in ("P", "PA"):
        colors = picture.tag_v2[_COLOR_MAP]
        if max(colors) < 256:
            picture.palette = ImagePalette.raw("RGB;L", bytes(colors))


def deep_palette(picture: Image.Image) -> np.ndarray | None:
    """The palette (colors, 3) of a TIFF, uint16, if 8 bits do not hold it; else None."""
    if picture.format != "TIFF" or picture.mode != "P":
        return None
    palette = np.array(picture.tag_v2[_COLOR_MAP], np.uint16).reshape(3, -1).T
    has_8_bits = palette.max() < 256 or not (palette % 257).any() or not (palette % 256).any()
    return None if has_8_bits else palette
