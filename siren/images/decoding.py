"""From an open picture file to its numbers, exactly as they are in the file, and to shades.

``read_samples`` gives the numbers; ``to_shades`` says which of them are black and white, and what
is lost.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from siren.images.opening import ImageError, ImageWarning, frames_left_out, open_picture, quoted

# Raw modes of 16 bits per channel, which Pillow reduces to 8. L: little endian, B: big, N: native.
_DEEP_COLOR = re.compile(r"(RGB|RGBA|RGBX|LA);16([LBN])")
_NETPBM_COMMENT = re.compile(rb"#[^\r\n]*")
_ORIENTATION_TAG = 0x0112
_BLOCK = 1 << 20  # numbers that are converted at a time: a picture may be large
_DARK = 4  # a picture is called dark if its largest number is less than white divided by this


class UnknownWhite(ImageError):
    """A file does not say which of its numbers are black and white; ``fact`` has no way out."""

    def __init__(self, fact: str):
        super().__init__(f"{fact}; say so with range=(LOW, HIGH)")
        self.fact = fact


@dataclass
class Samples:
    """A picture in the numbers of its file.

    color  (height, width, 1 or 3): gray or RGB, unsigned integers or floating-point numbers; of a
           TIFF in which 0 is white, those that are left to white
    white  the number that the file's depth makes white, such as 4095 for 12 bits; None if it does
           not: for floating-point numbers
    alpha  (height, width) opacity in [0, 1], not 0 everywhere, or None for an opaque picture
    """

    color: np.ndarray
    white: int | None
    alpha: np.ndarray | None = None


# ---- numbers -----------------------------------------------------------------------------------


def read_samples(picture: Image.Image, path: str | Path, notes: list[ImageWarning]) -> Samples:
    """The numbers of a picture that is not loaded yet, upright; ``notes`` gets its other frames."""
    white = _netpbm_white(picture)
    raw = _raw_mode(picture)
    if white is not None:
        samples = Samples(_read_netpbm(picture, path, white), white)
    elif _DEEP_COLOR.fullmatch(raw):
        samples = _deep_color(picture, path)
    elif picture.mode.startswith(("I", "F")):
        samples = _deep_gray(picture, raw)
    else:
        samples = _shallow(picture, raw)
    if samples.alpha is not None and not samples.alpha.any():
        raise ImageError(
            f"{quoted(path)} is transparent everywhere, so that nothing would be seen of it; save "
            "it without its alpha channel"
        )
    samples.color = _upright(samples.color, picture)
    samples.alpha = None if samples.alpha is None else _upright(samples.alpha, picture)
    notes += frames_left_out(picture, path)
    return samples


def _upright(array: np.ndarray, picture: Image.Image) -> np.ndarray:
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


def _read_netpbm(picture: Image.Image, path: str | Path, white: int) -> np.ndarray:
    """All numbers of a PGM or PPM, which Pillow would round to 8 or 16 bits.

    Returns uint8 or uint16 (height, width, 1 or 3). Raises ValueError if numbers are missing or
    larger than white.
    """
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


def _raw_mode(picture: Image.Image) -> str:
    """The raw mode by which Pillow will unpack the pixels of a picture that is not loaded yet."""
    arguments = picture.tile[0][3] if picture.tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _load(picture: Image.Image, raw: str) -> np.ndarray:
    """Have Pillow unpack the pixels of a picture by another ``raw`` mode."""
    for number, tile in enumerate(picture.tile):
        *place, old = tile
        make = getattr(tile, "_make", tuple)  # a named tuple since Pillow 11
        picture.tile[number] = make((*place, (raw, *old[1:]) if isinstance(old, tuple) else raw))
    picture.load()
    return np.asarray(picture).astype(np.uint16)


def _deep_color(picture: Image.Image, path: str | Path) -> Samples:
    """A picture of 16 bits per channel in color, or in gray with an alpha channel.

    Pillow reads the high byte of each number. With the byte order reversed it reads the low byte.
    """
    kind, order = _DEEP_COLOR.fullmatch(_raw_mode(picture)).groups()
    if kind == "LA":  # always big-endian; read its four bytes as four channels
        octets = _load(picture, "RGBA")
        values = octets[..., ::2] << 8 | octets[..., 1::2]
    else:
        if order == "N":
            order = sys.byteorder[0].upper()
        values = _load(picture, f"{kind};16{order}") << 8
        with open_picture(path) as (again, _):
            values |= _load(again, f"{kind};16{'B' if order == 'L' else 'L'}")
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
    """A gray picture of more than 8 bits; ``raw`` is its raw mode."""
    color = np.asarray(picture)[..., None]
    if picture.mode == "F":
        return Samples(color, None)
    color = color.astype(np.uint16)
    white = 4095 if raw == "I;12" else 65535
    return Samples(color, white, _is_opaque(picture, color))


def _shallow(picture: Image.Image, raw: str) -> Samples:
    """A picture of at most 8 bits; ``raw`` is its raw mode."""
    few = re.match("L;([24])", raw)
    white = 1 if picture.mode == "1" else 2 ** int(few[1]) - 1 if few else 255
    picture.load()
    transparent = picture.info.get("transparency")
    if picture.format == "PNG" and isinstance(transparent, int) and transparent <= white < 255:
        # Pillow scales numbers of 2 and 4 bits to 8, but not the one that is transparent.
        picture.info["transparency"] = transparent * 255 // white
    alpha = None
    if picture.mode in ("LA", "PA", "RGBA") or "transparency" in picture.info:
        alpha = np.asarray(picture.convert("RGBA").getchannel("A")) / np.float32(255)
        if picture.format == "BMP" and not alpha.any():  # the fourth number often means nothing
            alpha = None
    if picture.mode in ("1", "L", "LA"):
        color = np.asarray(picture.getchannel(0).convert("L"))[..., None] // (255 // white)
        return Samples(color, white, alpha)
    rgb = picture if picture.mode == "RGBA" else picture.convert("RGB")
    return Samples(np.asarray(rgb)[..., :3], 255, alpha)


# ---- shades ------------------------------------------------------------------------------------


def to_shades(
    samples: Samples, name: str, limits: tuple[float, float] | None, notes: list[ImageWarning]
) -> np.ndarray:
    """``samples`` on white paper, (height, width, 1 or 3) in [0, 255].

    They are uint8 if these 256 levels hold all numbers of the file, otherwise float32. ``limits``
    are the numbers that become 0 and 255; None: those of the file's depth. What is lost is appended
    to ``notes``. ``name`` is that of the file, quoted. Raises ImageError.
    """
    color, white = samples.color, samples.white
    if white is None:
        _refuse_not_finite(color, name)
    if limits is None:
        limits = 0, _own_white(samples, name, notes)
    else:
        _tell_clipped(samples, name, limits, notes)
    has_8_bits = white is not None and limits == (0, white) and 255 % white == 0
    if has_8_bits and white == 255 and samples.alpha is None:
        return color
    low, high = limits
    shades = np.empty(color.shape, np.uint8 if has_8_bits else np.float32)
    rows = max(1, _BLOCK // color[0].size)
    for first in range(0, len(color), rows):
        part = slice(first, first + rows)
        block = (color[part].astype(np.float64) - low) * (255 / (high - low))
        np.clip(block, 0, 255, out=block)
        if samples.alpha is not None:
            opacity = samples.alpha[part, :, None]
            block = block * opacity + 255 * (1 - opacity)
        shades[part] = np.rint(block) if has_8_bits else block
    return shades


def luma(pixels: np.ndarray) -> np.ndarray:
    """The luma (height, width) of RGB (height, width, 3), of the same type, as Pillow has it."""
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(pixels).convert("L"))
    return pixels @ np.float32([0.299, 0.587, 0.114])


def _refuse_not_finite(color: np.ndarray, name: str) -> None:
    count = int((~np.isfinite(color)).sum())
    if count:
        raise ImageError(
            f"{name} has {count} of {color.size} pixels that are not a finite number (NaN or "
            "infinity); replace them first"
        )


def _own_white(samples: Samples, name: str, notes: list[ImageWarning]) -> float:
    """The number that is white without a range. Raises UnknownWhite."""
    low, high, white = samples.color.min().item(), samples.color.max().item(), samples.white
    if white is None and low >= 0:
        white = 1 if high <= 1 else 255 if 128 <= high <= 255 else None
    if white is None:
        raise UnknownWhite(
            f"{name} has floating-point values from {_figure(low)} to {_figure(high)}, and the "
            "file does not say which are black and white"
        )
    if 0 < high < white / _DARK and white > 255:
        likely = 2 ** max(8, high.bit_length()) - 1
        fact = f"the largest value of {name} is {high} of {white}"
        notes.append(ImageWarning(fact, f"if {likely} is white", str(likely)))
    return white


def _figure(value: float) -> str:
    """A number as a user would write it."""
    whole = abs(value) < 1e15 and value == int(value)
    return str(int(value)) if whole else f"{value:.7g}"


def _tell_clipped(samples: Samples, name: str, limits: tuple[float, float], notes: list) -> None:
    """Append how many visible pixels are outside ``limits``."""
    low, high = limits
    outside = ((samples.color < low) | (samples.color > high)).any(axis=-1)
    if samples.alpha is not None:
        outside &= samples.alpha > 0
    share = 100 * outside.mean()
    if share > 0:
        share = f"{share:.3g}" if share >= 0.01 else "less than 0.01"
        limits = f"below LOW ({_figure(low)}) or above HIGH ({_figure(high)})"
        fact = f"{share} % of the pixels of {name} are {limits}, and are clipped"
        notes.append(ImageWarning(fact))
