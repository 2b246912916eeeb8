"""From an open picture file to its numbers, exactly as they are in the file."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops

from siren import netpbm, tiff
from siren.depth import Samples
from siren.opening import ImageError, quoted
from siren.pages import open_picture

# Raw modes of 16 bits per channel, which Pillow reduces to 8. L: little endian, B: big, N: native.
_DEEP_COLOUR = re.compile(r"(RGB|RGBA|RGBX|RGBa|CMYK|LA);16([LBN])")
_ALPHA_MODES = ("LA", "PA", "RGBA", "La", "RGBa")


def has_8_bits(picture: Image.Image) -> bool:
    """Whether 256 levels hold all numbers of a picture that is not loaded yet."""
    white = netpbm.largest(picture)
    if white is not None:
        return 255 % white == 0
    if tiff.deep_palette(picture) is not None:
        return False
    deep_gray = picture.mode.startswith("I") or picture.mode == "F"
    return not (deep_gray or _DEEP_COLOUR.fullmatch(raw_mode(picture)))


def read_8_bits(picture: Image.Image, path: str | Path) -> Image.Image:
    """A picture of at most 8 bits, not loaded yet, as RGB on white paper."""
    white = netpbm.largest(picture)
    if white is not None:
        values = netpbm.samples(picture, path) * (255 // white)
        return Image.fromarray(np.broadcast_to(values, (*values.shape[:2], 3)).copy())
    load(picture)
    return _on_paper(picture, path)


def read_samples(picture: Image.Image, path: str | Path) -> Samples:
    """The numbers of a picture of any depth, which is not loaded yet."""
    white = netpbm.largest(picture)
    if white is not None:
        return Samples(netpbm.samples(picture, path), white)
    raw = raw_mode(picture)
    if _DEEP_COLOUR.fullmatch(raw):
        return _deep_colour(picture, path)
    load(picture)
    palette = tiff.deep_palette(picture)
    if palette is not None:
        return Samples(palette[np.asarray(picture)], 65535)
    if picture.mode.startswith("I") or picture.mode == "F":
        return _deep_gray(picture, raw, path)
    return _shallow(picture, raw, path)


def load(picture: Image.Image) -> None:
    """Decode the pixels, after correcting what Pillow would misunderstand."""
    if tiff.has_wrong_byte_order(picture):
        set_raw_mode(picture, lambda raw: raw.replace("B", "N"))
    elif tiff.is_premultiplied(picture) and picture.mode == "RGBA":
        set_raw_mode(picture, lambda raw: raw.replace("a", "A"))  # not to divide and to round
    tiff.correct_palette(picture)
    white = _white_of_gray(raw_mode(picture))
    picture.load()
    transparent = picture.info.get("transparency")
    if picture.format == "PNG" and isinstance(transparent, int) and transparent <= white < 255:
        # Pillow scales numbers of 2 and 4 bits to 8, but not the one that is transparent.
        picture.info["transparency"] = transparent * 255 // white


def _white_of_gray(raw: str) -> int:
    """The largest number of at most 8 bits in the ``raw`` mode of a gray picture."""
    bits = re.match("L;([24])", raw)
    return 2 ** int(bits[1]) - 1 if bits else 255


def raw_mode(picture: Image.Image) -> str:
    """The raw mode by which Pillow will unpack the pixels of a picture that is not loaded yet."""
    arguments = picture.tile[0][3] if picture.tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def set_raw_mode(picture: Image.Image, change: Callable[[str], str]) -> None:
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
    kind, order = _DEEP_COLOUR.fullmatch(raw_mode(picture)).groups()
    kind = kind.replace("a", "A")
    if order == "N":
        order = sys.byteorder[0].upper()
    reverse = f"{kind};16{'B' if order == 'L' else 'L'}"
    if kind == "LA":  # Pillow knows only one order of it; read its bytes as four channels
        reverse = "RGBA"
    set_raw_mode(picture, lambda _: f"{kind};16{order}")
    picture.load()
    with open_picture(path) as (again, _):
        set_raw_mode(again, lambda _: reverse)
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
