"""From an open picture file to its numbers, exactly as they are in the file."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops

from siren.images import tiff
from siren.images.opening import ImageError, open_picture, quoted

# Raw modes of 16 bits per channel, which Pillow reduces to 8. L: little endian, B: big, N: native.
_DEEP_COLOUR = re.compile(r"(RGB|RGBA|RGBX|RGBa|CMYK|LA);16([LBN])")
_ALPHA_MODES = ("LA", "PA", "RGBA", "La", "RGBa")
_NETPBM_COMMENT = re.compile(rb"#[^\r\n]*")
_ORIENTATION_TAG = 0x0112
_SIDEWAYS = (5, 6, 7, 8)  # the EXIF orientations that swap height and width


@dataclass
class Samples:
    """A picture in the numbers of its file.

    colour    (height, width, 1 or 3): gray or RGB, integers or floating-point numbers of any size
    white     the number that the file's depth makes white, such as 4095 for 12 bits; None if it
              does not: for floating-point numbers, signed ones and those of 32 bits
    alpha     (height, width) opacity in [0, 1], not 0 everywhere, or None for an opaque picture
    inverted  whether white is black, and 0 is white
    has_range whether black and white can be set: not if the file's colours were CMYK or CIELAB
    """

    colour: np.ndarray
    white: float | None
    alpha: np.ndarray | None = None
    inverted: bool = False
    has_range: bool = True


def has_8_bits(picture: Image.Image) -> bool:
    """Whether 256 levels hold all numbers of a picture that is not loaded yet."""
    white = _netpbm_white(picture)
    if white is not None:
        return 255 % white == 0
    if tiff.deep_palette(picture) is not None:
        return False
    return not (_is_deep_gray(picture) or _DEEP_COLOUR.fullmatch(_raw_mode(picture)))


def read_8_bits(picture: Image.Image, path: str | Path, channels: int) -> np.ndarray:
    """A picture of at most 8 bits, not loaded yet, on white paper.

    Returns uint8 (height, width, channels): luma, or RGB.
    """
    white = _netpbm_white(picture)
    if white is not None:
        values = _read_netpbm(picture, path) * (255 // white)
        rgb = Image.fromarray(np.broadcast_to(values, (*values.shape[:2], 3)).copy())
    else:
        _load(picture)
        rgb = _on_paper(picture, path)
    pixels = np.asarray(rgb.convert("L") if channels == 1 else rgb)
    return pixels.reshape(rgb.height, rgb.width, channels)


def read_samples(picture: Image.Image, path: str | Path) -> Samples:
    """The numbers of a picture of any depth, which is not loaded yet."""
    white = _netpbm_white(picture)
    if white is not None:
        return Samples(_read_netpbm(picture, path), white)
    raw = _raw_mode(picture)
    if _DEEP_COLOUR.fullmatch(raw):
        return _deep_colour(picture, path)
    _load(picture)
    palette = tiff.deep_palette(picture)
    if palette is not None:
        return Samples(palette[np.asarray(picture)], 65535)
    if _is_deep_gray(picture):
        return _deep_gray(picture, raw, path)
    return _shallow(picture, raw, path)


def upright_size(picture: Image.Image) -> tuple[int, int]:
    """(height, width) of the picture after ``upright``.

    Only the header is decoded, except for PNG, whose orientation may come after the pixels, and for
    TIFF, where Pillow's version decides whether the size in the header is upright already.
    """
    if picture.format in ("PNG", "TIFF"):
        picture.load()
    width, height = picture.size
    return (width, height) if orientation(picture) in _SIDEWAYS else (height, width)


def orientation(picture: Image.Image) -> int:
    """The EXIF orientation of a loaded picture, 1 to 8; 1 if there is none or it is invalid."""
    try:
        turn = picture.getexif().get(_ORIENTATION_TAG)
        return turn if turn in range(1, 9) else 1
    except Exception:  # a picture whose EXIF block is broken is still a picture
        return 1


def upright(array: np.ndarray, turn: int) -> np.ndarray:
    """``array`` (height, width, ...) turned as ``orientation`` says."""
    if turn in _SIDEWAYS:
        array = array.swapaxes(0, 1)
    rows = -1 if turn in (3, 4, 7, 8) else 1
    columns = -1 if turn in (2, 3, 6, 7) else 1
    return array[::rows, ::columns]


def _netpbm_white(picture: Image.Image) -> int | None:
    """White in a PGM or PPM that is not loaded yet (its "maxval"); None for other pictures."""
    if picture.format != "PPM" or picture.mode not in ("L", "I", "RGB"):
        return None
    decoder, _, _, arguments = picture.tile[0]
    if decoder in ("ppm", "ppm_plain"):
        return int(arguments[-1])
    return 65535 if picture.mode == "I" else 255


def _read_netpbm(picture: Image.Image, path: str | Path) -> np.ndarray:
    """All numbers of a PGM or PPM, which Pillow would round to 8 or 16 bits.

    Returns uint8 or uint16 (height, width, 1 or 3). Raises ValueError if numbers are missing or
    larger than white.
    """
    white = _netpbm_white(picture)
    decoder, _, offset, _ = picture.tile[0]
    shape = (picture.height, picture.width, 3 if picture.mode == "RGB" else 1)
    count = shape[0] * shape[1] * shape[2]
    with open(path, "rb") as file:
        file.seek(offset)
        if decoder == "ppm_plain":
            words = _NETPBM_COMMENT.sub(b"", file.read()).split(None, count)[:count]
            values = np.array(words, dtype=bytes).astype(np.int64)
        else:
            values = np.fromfile(file, "u1" if white < 256 else ">u2", count)
    if len(values) < count:
        raise ValueError(f"it has {len(values)} of {count} numbers")
    if values.min() < 0 or values.max() > white:
        raise ValueError(f"a number is not within 0 and {white}")
    return values.astype(np.uint8 if white < 256 else np.uint16).reshape(shape)


def _is_deep_gray(picture: Image.Image) -> bool:
    return picture.mode.startswith("I") or picture.mode == "F"


def _load(picture: Image.Image) -> None:
    """Decode the pixels, after correcting what Pillow would misunderstand."""
    if tiff.has_wrong_byte_order(picture):
        _set_raw_mode(picture, lambda raw: raw.replace("B", "N"))
    elif tiff.is_premultiplied(picture) and picture.mode == "RGBA":
        _set_raw_mode(picture, lambda raw: raw.replace("a", "A"))  # not to divide and to round
    tiff.correct_palette(picture)
    white = _white_of_gray(_raw_mode(picture))
    picture.load()
    transparent = picture.info.get("transparency")
    if picture.format == "PNG" and isinstance(transparent, int) and transparent <= white < 255:
        # Pillow scales numbers of 2 and 4 bits to 8, but not the one that is transparent.
        picture.info["transparency"] = transparent * 255 // white


def _white_of_gray(raw: str) -> int:
    """The largest number of at most 8 bits in the ``raw`` mode of a gray picture."""
    bits = re.match("L;([24])", raw)
    return 2 ** int(bits[1]) - 1 if bits else 255


def _raw_mode(picture: Image.Image) -> str:
    """The raw mode by which Pillow will unpack the pixels of a picture that is not loaded yet."""
    arguments = picture.tile[0][3] if picture.tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _set_raw_mode(picture: Image.Image, change: Callable[[str], str]) -> None:
    """Have Pillow unpack the pixels by ``change(raw mode)`` when it loads them."""
    for number, tile in enumerate(picture.tile):
        arguments = tile[3]
        if isinstance(arguments, tuple):
            arguments = (change(arguments[0]), *arguments[1:])
        else:
            arguments = change(arguments)
        if hasattr(tile, "_replace"):  # a named tuple since Pillow 11
            picture.tile[number] = tile._replace(args=arguments)
        else:
            picture.tile[number] = (*tile[:3], arguments)


def _on_paper(picture: Image.Image, path: str | Path) -> Image.Image:
    """A loaded picture of at most 8 bits as RGB on white paper."""
    if picture.mode == "LAB":
        from PIL import ImageCms  # an optional part of Pillow, for a rare mode

        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(picture, lab, srgb, outputMode="RGB")
    if not _has_alpha(picture):
        return picture.convert("RGB")
    if tiff.is_premultiplied(picture):
        *colours, alpha = picture.split()
        if _is_used(picture, alpha, path):
            paper = ImageChops.invert(alpha)
            colours = [ImageChops.add(colour, paper) for colour in colours]
            return Image.merge("RGB", colours if len(colours) == 3 else colours * 3)
    rgba = picture.convert("RGBA")
    if not _is_used(picture, rgba.getchannel("A"), path):
        return picture.convert("RGB")
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")


def _has_alpha(picture: Image.Image) -> bool:
    return picture.mode in _ALPHA_MODES or "transparency" in picture.info


def _is_used(picture: Image.Image, alpha, path: str | Path) -> bool:
    """Whether ``alpha`` of a loaded picture means opacity. Raises ImageError if it is 0 everywhere.

    In a BMP of 32 bits the fourth number is often 0 everywhere, and means nothing.
    """
    highest = alpha.getextrema()[1] if isinstance(alpha, Image.Image) else alpha.max()
    if highest > 0:
        return True
    if picture.format == "BMP":
        return False
    raise ImageError(
        f"{quoted(path)} is transparent everywhere, so that nothing would be seen of it; save it "
        "without its alpha channel"
    )


def _deep_colour(picture: Image.Image, path: str | Path) -> Samples:
    """A picture of 16 bits per channel in colour, or in gray with an alpha channel.

    Pillow reads the high byte of each number. With the byte order reversed it reads the low byte.
    """
    kind, order = _DEEP_COLOUR.fullmatch(_raw_mode(picture)).groups()
    kind = kind.replace("a", "A")
    if order == "N":
        order = sys.byteorder[0].upper()
    reverse = f"{kind};16{'B' if order == 'L' else 'L'}"
    if kind == "LA":  # Pillow knows only one order of it; read its bytes as four channels
        reverse = "RGBA"
    _set_raw_mode(picture, lambda _: f"{kind};16{order}")
    picture.load()
    with open_picture(path) as (again, _):
        _set_raw_mode(again, lambda _: reverse)
        again.load()
        low = np.asarray(again)
    if kind == "LA":
        values = low[..., ::2].astype(np.uint16) << 8 | low[..., 1::2]
    else:
        values = np.asarray(picture).astype(np.uint16) << 8 | low
    if kind == "CMYK":
        return Samples(_mix_inks(values), 65535, has_range=False)
    return _split_alpha(values[..., :3] if kind == "RGBX" else values, picture, path)


def _mix_inks(values: np.ndarray) -> np.ndarray:
    """RGB of CMYK (height, width, 4), both in 16 bits: the same formula as Pillow's in 8 bits."""
    light = (65535 - values).astype(np.float32)
    return light[..., :3] * (light[..., 3:] / np.float32(65535))


def _split_alpha(values: np.ndarray, picture: Image.Image, path: str | Path) -> Samples:
    """16-bit ``values`` (height, width, 1 to 4), of which the second or fourth are the opacity."""
    alpha = None
    transparent = picture.info.get("transparency")  # of a PNG: the one transparent colour
    if values.shape[2] in (2, 4):
        alpha = values[..., -1] / np.float32(65535)
        values = values[..., :-1]
    elif isinstance(transparent, tuple) and len(transparent) == values.shape[2]:
        alpha = (values != transparent).any(axis=2).astype(np.float32)
    if alpha is not None:
        _is_used(picture, alpha, path)
    return Samples(_divide(values, picture, alpha), 65535, alpha)


def _deep_gray(picture: Image.Image, raw: str, path: str | Path) -> Samples:
    """A loaded gray picture of more than 8 bits; ``raw`` is the raw mode that it had."""
    colour = np.asarray(picture)[..., None]
    inverted = tiff.white_is_zero(picture)
    if picture.mode == "F":
        return Samples(colour, None, inverted=inverted)
    if ";32" in raw:
        unsigned = picture.format == "TIFF" and "S" not in raw
        return Samples(colour.view(np.uint32) if unsigned else colour, None, inverted=inverted)
    if raw.endswith("S"):
        return Samples(colour.astype(np.int16), None, inverted=inverted)
    colour = colour.astype(np.uint16)
    alpha = None
    transparent = picture.info.get("transparency")  # of a PNG: the one transparent number
    if isinstance(transparent, int):
        alpha = (colour[..., 0] != transparent).astype(np.float32)
        _is_used(picture, alpha, path)
    return Samples(colour, 4095 if raw == "I;12" else 65535, alpha, inverted)


def _shallow(picture: Image.Image, raw: str, path: str | Path) -> Samples:
    """A loaded picture of at most 8 bits; ``raw`` is the raw mode that it had."""
    if picture.mode in ("CMYK", "LAB"):
        return Samples(np.asarray(_on_paper(picture, path)), 255, has_range=False)
    alpha = None
    if _has_alpha(picture):
        bands = picture if picture.mode in _ALPHA_MODES else picture.convert("RGBA")
        alpha = np.asarray(bands.getchannel(len(bands.getbands()) - 1)) / np.float32(255)
        if not _is_used(picture, alpha, path):
            alpha = None
    if picture.mode == "RGBA":
        return Samples(_divide(np.asarray(picture)[..., :3], picture, alpha), 255, alpha)
    if picture.mode not in ("1", "L", "LA", "La"):
        return Samples(np.asarray(picture.convert("RGB")), 255, alpha)
    white = 1 if picture.mode == "1" else _white_of_gray(raw)
    gray = picture.getchannel(0) if alpha is not None else picture
    colour = np.asarray(gray.convert("L"))[..., None] // (255 // white)
    inverted = tiff.white_is_zero(picture)
    if inverted:  # Pillow has inverted it already
        colour = white - colour
    return Samples(_divide(colour, picture, alpha), white, alpha, inverted)


def _divide(colour: np.ndarray, picture: Image.Image, alpha: np.ndarray | None) -> np.ndarray:
    """``colour``, divided by the opacity ``alpha`` if it has been multiplied by it."""
    if alpha is None or not tiff.is_premultiplied(picture):
        return colour
    return colour / np.where(alpha > 0, alpha, np.float32(1))[..., None]
