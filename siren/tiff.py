"""TIFFs that Pillow cannot read or reads wrongly: how to describe or to correct them."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, TiffImagePlugin

# TIFF tags, and names for the values of some.
_BITS, _COMPRESSION, _COLOUR, _SAMPLES, _PLANES, _KIND = 258, 259, 262, 277, 284, 339
_KINDS = {1: "unsigned integer", 2: "signed integer", 3: "floating-point", 5: "complex integer"}
_KINDS[6] = "complex floating-point"
_COLOURS = {0: "gray, white is 0", 1: "gray", 2: "RGB", 5: "CMYK", 6: "YCbCr", 8: "CIELAB"}
# Pillow's messages for a file that may be intact but has an unknown kind of pixels.
_UNKNOWN_PIXELS = ("unknown pixel mode", "Invalid value for samples per pixel")


def unknown_kind(path: str | Path) -> str:
    """The feature of a TIFF that Pillow does not know, in words; "" for any other file."""
    try:
        with open(path, "rb") as file:
            try:
                TiffImagePlugin.TiffImageFile(file)
            except SyntaxError as error:
                tags = _tags(file)
                if tags.get(_COMPRESSION, 1) not in TiffImagePlugin.COMPRESSION_INFO:
                    return f"compression number {tags[_COMPRESSION]}"
                return _describe_pixels(tags) if str(error) in _UNKNOWN_PIXELS else ""
    except Exception:  # on damaged files Pillow raises nearly anything
        return ""
    return ""


def misread_kind(picture: Image.Image) -> str:
    """The kind of values that Pillow would misread as unsigned 8-bit ones, in words; else ""."""
    if picture.format != "TIFF":
        return ""
    tags = picture.tag_v2
    bits = max(tags.get(_BITS, (1,)))
    if tags.get(_KIND, (1,))[0] == 2 and bits <= 8:
        return f"signed integer values of {bits} bits"
    raw = any(tile[0] == "raw" for tile in picture.tile)
    if raw and bits > 8 and tags.get(_PLANES) == 2 and tags.get(_SAMPLES, 1) > 1:
        return f"{bits}-bit colours in separate planes"
    return ""


def white_is_zero(picture: Image.Image) -> bool:
    """Whether it is a TIFF whose largest value is black; Pillow inverts only those of 8 bits."""
    return picture.format == "TIFF" and picture.tag_v2.get(_COLOUR) == 0


def has_wrong_byte_order(picture: Image.Image) -> bool:
    """Whether Pillow would assume the file's byte order for values that are in the machine's.

    That happens with 32-bit values in a compressed file: libtiff converts them.
    """
    deep = picture.format == "TIFF" and picture.mode in ("I", "F")
    return deep and any(tile[0] == "libtiff" for tile in picture.tile)


def _tags(file) -> TiffImagePlugin.ImageFileDirectory_v2:
    file.seek(0)
    header = file.read(8)
    if 43 in header[2:4]:  # BigTIFF
        header += file.read(8)
    tags = TiffImagePlugin.ImageFileDirectory_v2(header)
    file.seek(tags.next)
    tags.load(file)
    return tags


def _describe_pixels(tags) -> str:
    samples = tags.get(_SAMPLES, 1)
    kind = _KINDS.get(tags.get(_KIND, (1,))[0], "strange")
    colour = _COLOURS.get(tags.get(_COLOUR), "another colour space")
    values = "value" if samples == 1 else "values"
    return f"{samples} {kind} {values} of {max(tags.get(_BITS, (1,)))} bits a pixel ({colour})"
