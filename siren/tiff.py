"""TIFFs: their pages, what Pillow reads of them exactly, and words for what it does not."""

from __future__ import annotations

import functools
import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImagePalette, TiffImagePlugin

# TIFF tags, and names for the values of some.
_NEW_KIND, _OLD_KIND, _WIDTH, _HEIGHT = 254, 255, 256, 257
_BITS, _COMPRESSION, _COLOUR, _SAMPLES, _PLANES, _KIND = 258, 259, 262, 277, 284, 339
_DESCRIPTION, _COLOUR_MAP, _EXTRA, _SUBSAMPLING, _DEPTH = 270, 320, 338, 530, 32997
_KINDS = {1: "unsigned integer", 2: "signed integer", 3: "floating-point", 5: "complex integer"}
_KINDS[6] = "complex floating-point"
_COLOURS = {
    0: "gray, white is 0",
    1: "gray",
    2: "RGB",
    3: "palette",
    5: "CMYK",
    6: "YCbCr",
    8: "CIELAB",
}
_YCBCR = 6
# Pillow's messages for a file that may be intact but has an unknown kind of pixels.
_UNKNOWN_PIXELS = ("unknown pixel mode", "Invalid value for samples per pixel")

# The compressions that are read. Of these, libtiff may have been built without the second kind.
_ALWAYS_THERE = (1, 2, 3, 4, 5, 32773)  # none, CCITT (three kinds), LZW, PackBits
_OPTIONAL = {
    6: "jpeg",
    7: "jpeg",
    8: "tiff_adobe_deflate",
    32946: "tiff_adobe_deflate",
    34925: "lzma",
    50000: "zstd",
    50001: "webp",
}
_OPTIONAL_NAMES = {"jpeg": "JPEG", "tiff_adobe_deflate": "Deflate", "webp": "WebP"}
# What is read of 8-bit numbers in separate planes: colour, samples, extra samples (2: opacity).
_EXACT_PLANES = ((2, 3, ()), (2, 4, (2,)), (5, 4, ()))
_MAX_PAGES = 1 << 16  # more are not looked at


@dataclass(frozen=True)
class Page:
    """The size of a TIFF's page in pixels, and whether it is a thumbnail or a mask of another."""

    height: int
    width: int
    is_reduced: bool
    is_mask: bool

    @property
    def area(self) -> int:
        """The number of its pixels."""
        return self.height * self.width


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


def unknown_kind(path: str | Path) -> str:
    """The feature of a TIFF that Pillow does not know, in words; "" for any other file."""
    try:
        with open(path, "rb") as file:
            if file.read(4) == b"MM\0+":
                return "64-bit offsets in big-endian order (BigTIFF)"
            file.seek(0)
            try:
                TiffImagePlugin.TiffImageFile(file)
            except SyntaxError as error:
                tags = _directory(file)
                file.seek(tags.next)
                tags.load(file)
                if tags.get(_COMPRESSION, 1) not in TiffImagePlugin.COMPRESSION_INFO:
                    return f"compression number {tags[_COMPRESSION]}"
                if tags.get(_PLANES) == 2 and tags.get(_SAMPLES, 1) > 1:
                    return _describe_planes(tags)
                return _describe_pixels(tags) if str(error) in _UNKNOWN_PIXELS else ""
    except Exception:  # on damaged files Pillow raises nearly anything
        return ""
    return ""


def misread_kind(picture: Image.Image) -> str:
    """What of a TIFF Pillow would read wrongly, or not at all, in words; else ""."""
    if picture.format != "TIFF":
        return ""
    tags = picture.tag_v2
    bits = max(tags.get(_BITS, (1,)))
    if tags.get(_KIND, (1,))[0] == 2 and bits <= 8:
        return f"signed integer values of {bits} bits"
    if tags.get(_DEPTH, 1) > 1:
        return f"{tags[_DEPTH]} slices in one page"
    subsampling = tuple(tags.get(_SUBSAMPLING, (2, 2)))
    if tags.get(_COLOUR) == _YCBCR and not is_compressed(picture) and subsampling != (1, 1):
        return "colours (YCbCr) at a lower resolution than the brightness, without compression"
    return _misread_planes(picture, bits) or _unreadable_compression(tags.get(_COMPRESSION, 1))


def _misread_planes(picture: Image.Image, bits: int) -> str:
    """What is wrong with separate planes; "" where Pillow reads them exactly."""
    tags = picture.tag_v2
    if tags.get(_PLANES) != 2 or tags.get(_SAMPLES, 1) == 1:
        return ""
    if bits != 8:
        compressed = "compressed " if is_compressed(picture) else ""
        return f"{bits}-bit colours in separate {compressed}planes"
    layout = tags.get(_COLOUR), tags.get(_SAMPLES), tuple(tags.get(_EXTRA, ()))
    return "" if layout in _EXACT_PLANES else _describe_planes(tags)


def _unreadable_compression(number: int) -> str:
    if number in _ALWAYS_THERE:
        return ""
    if number not in _OPTIONAL:
        return f"compression number {number}"
    name = _OPTIONAL[number]
    if _can_compress(name):
        return ""
    return f"{_OPTIONAL_NAMES.get(name, name)} compression (this Pillow was built without it)"


@functools.cache
def _can_compress(name: str) -> bool:
    """Whether libtiff was built with a compression: it then writes a picture with it."""
    try:
        Image.new("RGB", (16, 16)).save(io.BytesIO(), "TIFF", compression=name)
    except Exception:  # what Pillow raises depends on the compression
        return False
    return True


def is_compressed(picture: Image.Image) -> bool:
    """Whether libtiff decodes this TIFF, not Pillow itself."""
    return any(tile[0] == "libtiff" for tile in picture.tile)


def white_is_zero(picture: Image.Image) -> bool:
    """Whether it is a TIFF whose largest value is black; Pillow inverts only those of 8 bits."""
    return picture.format == "TIFF" and picture.tag_v2.get(_COLOUR) == 0


def is_premultiplied(picture: Image.Image) -> bool:
    """Whether it is a TIFF whose colours have been multiplied by their opacity."""
    return picture.format == "TIFF" and tuple(picture.tag_v2.get(_EXTRA, ()))[:1] == (1,)


def has_wrong_byte_order(picture: Image.Image) -> bool:
    """Whether Pillow would assume the file's byte order for values that are in the machine's.

    That happens with 32-bit values in a compressed file: libtiff converts them.
    """
    deep = picture.format == "TIFF" and picture.mode in ("I", "F")
    return deep and is_compressed(picture)


def correct_palette(picture: Image.Image) -> None:
    """Take a palette of 8-bit numbers for what it is; TIFF wants 16 bits, and Pillow assumes them.

    Tools of libtiff do the same.
    """
    if picture.format == "TIFF" and picture.mode in ("P", "PA"):
        colours = picture.tag_v2[_COLOUR_MAP]
        if max(colours) < 256:
            picture.palette = ImagePalette.raw("RGB;L", bytes(colours))


def deep_palette(picture: Image.Image) -> np.ndarray | None:
    """The palette (colours, 3) of a TIFF, uint16, if 8 bits do not hold it; else None."""
    if picture.format != "TIFF" or picture.mode != "P":
        return None
    palette = np.array(picture.tag_v2[_COLOUR_MAP], np.uint16).reshape(3, -1).T
    has_8_bits = palette.max() < 256 or not (palette % 257).any() or not (palette % 256).any()
    return None if has_8_bits else palette


def _directory(file) -> TiffImagePlugin.ImageFileDirectory_v2:
    """The directory of a TIFF, not loaded yet: ``next`` is the position of its first page."""
    file.seek(0)
    header = file.read(8)
    if 43 in header[2:4]:  # BigTIFF
        header += file.read(8)
    return TiffImagePlugin.ImageFileDirectory_v2(header)


def _describe_planes(tags) -> str:
    colour = _COLOURS.get(tags.get(_COLOUR), "another colour space")
    bits = max(tags.get(_BITS, (1,)))
    return f"{tags.get(_SAMPLES)} separate planes of {bits} bits ({colour})"


def _describe_pixels(tags) -> str:
    samples = tags.get(_SAMPLES, 1)
    kind = _KINDS.get(tags.get(_KIND, (1,))[0], "strange")
    colour = _COLOURS.get(tags.get(_COLOUR), "another colour space")
    values = "value" if samples == 1 else "values"
    return f"{samples} {kind} {values} of {max(tags.get(_BITS, (1,)))} bits a pixel ({colour})"
