"""TIFFs that Pillow does not read, or reads wrongly: what to say of them, and what to mend."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, TiffImagePlugin

# Tags of a TIFF, and the values that some have.
_BITS, _COMPRESSION, _COLOUR, _SAMPLES, _PLANES, _KIND = 258, 259, 262, 277, 284, 339
_KINDS = {1: "unsigned integer", 2: "signed integer", 3: "floating-point", 5: "complex integer"}
_KINDS[6] = "complex floating-point"
_COLOURS = {0: "gray, white is 0", 1: "gray", 2: "RGB", 5: "CMYK", 6: "YCbCr", 8: "CIELAB"}
# What Pillow says where the file may be whole but has pixels of another kind than it knows.
_NOT_KNOWN = ("unknown pixel mode", "Invalid value for samples per pixel")


def unknown_kind(path: str | Path) -> str:
    """What a TIFF has that Pillow does not know, in words; "" for any other file."""
    try:
        with open(path, "rb") as file:
            try:
                TiffImagePlugin.TiffImageFile(file)
            except SyntaxError as error:
                tags = _tags(file)
                if tags.get(_COMPRESSION, 1) not in TiffImagePlugin.COMPRESSION_INFO:
                    return f"compression number {tags[_COMPRESSION]}"
                return _pixels_in_words(tags) if str(error) in _NOT_KNOWN else ""
    except Exception:  # on damaged files Pillow raises nearly anything
        return ""
    return ""


def misread_kind(picture: Image.Image) -> str:
    """What a TIFF has that Pillow takes for unsigned values of 8 bits, in words; "" for nothing."""
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
    """Whether it is a TIFF whose largest value is black; Pillow sees to that in 8 bits only."""
    return picture.format == "TIFF" and picture.tag_v2.get(_COLOUR) == 0


def wrong_order(picture: Image.Image) -> bool:
    """Whether Pillow would take values of 32 bits in the file's byte order.

    Where they are compressed, libtiff hands them out in the machine's.
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


def _pixels_in_words(tags) -> str:
    samples = tags.get(_SAMPLES, 1)
    kind = _KINDS.get(tags.get(_KIND, (1,))[0], "strange")
    colour = _COLOURS.get(tags.get(_COLOUR), "another colour space")
    values = "value" if samples == 1 else "values"
    return f"{samples} {kind} {values} of {max(tags.get(_BITS, (1,)))} bits a pixel ({colour})"
