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
_DEEP_COLOR = re.compile(r"(RGB|RGBA|RGBX|RGBa|CMYK|LA);16([LBN])")
_ALPHA_MODES = ("LA", "PA", "RGBA", "La", "RGBa")
_NETPBM_COMMENT = re.compile(rb"#[^\r\n]*")
_ORIENTATION_TAG = 0x0112


@dataclass
class Samples:
    """A picture in the numbers of its file.

    color    (height, width, 1 or 3): gray or RGB, integers or floating-point numbers of any size
    white     the number that the file's depth makes white, such as 4095 for 12 bits; None if it
              does not: for floating-point numbers, signed ones and those of 32 bits
    alpha     (height, width) opacity in [0, 1], not 0 everywhere, or None for an opaque picture
    inverted  whether white is black, and 0 is white
    has_range whether black and white can be set: not if the file's colors were CMYK or CIELAB
    """

    color: np.ndarray
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
    return not (_is_deep_gray(picture) or _DEEP_COLOR.fullmatch(_raw_mode(picture)))


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
    samples = _read_samples(picture, path)
    if samples.alpha is not None:
        if samples.alpha.max() == 0:
            raise _invisible(path)
        if tiff.is_premultiplied(picture):
            opacity = np.where(samples.alpha > 0, samples.alpha, np.float32(1))
            samples.color = samples.color / opacity[..., None]
    return samples


def _read_samples(picture: Image.Image, path: str | Path) -> Samples:
    """``read_samples``, but colors that are multiplied by their opacity stay so."""
    white = _netpbm_white(picture)
    if white is not None:
        return Samples(_read_netpbm(picture, path), white)
    raw = _raw_mode(picture)
    if _DEEP_COLOR.fullmatch(raw):
        return _deep_color(picture, path)
    _load(picture)
    palette = tiff.deep_palette(picture)
    if palette is not None:
        return Samples(palette[np.asarray(picture)], 65535)
    if _is_deep_gray(picture):
        return _deep_gray(picture, raw)
    return _shallow(picture, raw, path)


def upright(array: np.ndarray, picture: Image.Image) -> np.ndarray:
    """``array`` (height, width, ...) turned as the EXIF block of a loaded ``picture`` says."""
    try:
        turn = picture.getexif().get(_ORIENTATION_TAG)
    except Exception:  # a picture whose EXIF block is broken is still a picture
        return array
    if turn in (5, 6, 7, 8):
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
        *place, old = tile
        new = (change(old[0]), *old[1:]) if isinstance(old, tuple) else change(old)
        make = getattr(tile, "_make", tuple)  # a named tuple since Pillow 11
        picture.tile[number] = make((*place, new))


def _on_paper(picture: Image.Image, path: str | Path) -> Image.Image:
    """A loaded picture of at most 8 bits as RGB on white paper."""
    if picture.mode == "LAB":
        from PIL import ImageCms  # an optional part of Pillow, for a rare mode

        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(picture, lab, srgb, outputMode="RGB")
    alpha = _alpha(picture, path)
    if alpha is None:
        return picture.convert("RGB")
    if tiff.is_premultiplied(picture):
        paper = ImageChops.invert(alpha)
        colors = [ImageChops.add(color, paper) for color in picture.split()[:-1]]
        return Image.merge("RGB", colors if len(colors) == 3 else colors * 3)
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")


def _alpha(picture: Image.Image, path: str | Path) -> Image.Image | None:
    """The opacity of a loaded picture of at most 8 bits; None if it is opaque. Raises ImageError.

    In a BMP of 32 bits the fourth number is often 0 everywhere, and means nothing.
    """
    if picture.mode in _ALPHA_MODES:
        alpha = picture.getchannel(len(picture.getbands()) - 1)
    elif "transparency" in picture.info:
        alpha = picture.convert("RGBA").getchannel("A")
    else:
        return None
    if alpha.getextrema()[1] > 0:
        return alpha
    if picture.format == "BMP":
        return None
    raise _invisible(path)


def _invisible(path: str | Path) -> ImageError:
    return ImageError(
        f"{quoted(path)} is transparent everywhere, so that nothing would be seen of it; save it "
        "without its alpha channel"
    )


def _deep_color(picture: Image.Image, path: str | Path) -> Samples:
    """A picture of 16 bits per channel in color, or in gray with an alpha channel.

    Pillow reads the high byte of each number. With the byte order reversed it reads the low byte.
    """
    kind, order = _DEEP_COLOR.fullmatch(_raw_mode(picture)).groups()
    kind = kind.replace("a", "A")
    if kind == "LA":  # always big-endian; read its four bytes as four channels
        _set_raw_mode(picture, lambda _: "RGBA")
        picture.load()
        octets = np.asarray(picture).astype(np.uint16)
        values = octets[..., ::2] << 8 | octets[..., 1::2]
    else:
        if order == "N":
            order = sys.byteorder[0].upper()
        _set_raw_mode(picture, lambda _: f"{kind};16{order}")
        picture.load()
        with open_picture(path) as (again, _):
            _set_raw_mode(again, lambda _: f"{kind};16{'B' if order == 'L' else 'L'}")
            again.load()
            values = np.asarray(picture).astype(np.uint16) << 8 | np.asarray(again)
    if kind == "CMYK":  # the same formula as Pillow's in 8 bits
        light = (65535 - values).astype(np.float32)
        rgb = light[..., :3] * (light[..., 3:] / np.float32(65535))
        return Samples(rgb, 65535, has_range=False)
    if kind in ("LA", "RGBA"):
        return Samples(values[..., :-1], 65535, values[..., -1] / np.float32(65535))
    values = values[..., :3]
    return Samples(values, 65535, _is_opaque(picture, values))


def _is_opaque(picture: Image.Image, values: np.ndarray) -> np.ndarray | None:
    """0 where ``values`` are the one transparent color of a PNG of 16 bits, and 1 elsewhere."""
    transparent = picture.info.get("transparency")
    if transparent is None or np.size(transparent) != values.shape[2]:
        return None
    return (values != transparent).any(axis=2).astype(np.float32)


def _deep_gray(picture: Image.Image, raw: str) -> Samples:
    """A loaded gray picture of more than 8 bits; ``raw`` is the raw mode that it had."""
    color = np.asarray(picture)[..., None]
    inverted = tiff.white_is_zero(picture)
    if picture.mode == "F":
        return Samples(color, None, inverted=inverted)
    if ";32" in raw:
        unsigned = picture.format == "TIFF" and "S" not in raw
        return Samples(color.view(np.uint32) if unsigned else color, None, inverted=inverted)
    if raw.endswith("S"):
        return Samples(color.astype(np.int16), None, inverted=inverted)
    color = color.astype(np.uint16)
    white = 4095 if raw == "I;12" else 65535
    return Samples(color, white, _is_opaque(picture, color), inverted)


def _shallow(picture: Image.Image, raw: str, path: str | Path) -> Samples:
    """A loaded picture of at most 8 bits; ``raw`` is the raw mode that it had."""
    if picture.mode in ("CMYK", "LAB"):
        return Samples(np.asarray(_on_paper(picture, path)), 255, has_range=False)
    alpha = _alpha(picture, path)
    alpha = None if alpha is None else np.asarray(alpha) / np.float32(255)
    if picture.mode not in ("1", "L", "LA", "La"):
        rgb = picture if picture.mode == "RGBA" else picture.convert("RGB")
        return Samples(np.asarray(rgb)[..., :3], 255, alpha)
    white = 1 if picture.mode == "1" else _white_of_gray(raw)
    gray = picture.getchannel(0) if alpha is not None else picture
    color = np.asarray(gray.convert("L"))[..., None] // (255 // white)
    inverted = tiff.white_is_zero(picture)
    if inverted:  # Pillow has inverted it already
        color = white - color
    return Samples(color, white, alpha, inverted)
