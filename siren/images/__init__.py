"""Reading and writing pictures.

In memory an image is a float32 array (height, width, channels) with values in [-1, 1], where -1 is
black and 1 is white (`x / 127.5 - 1` for an 8-bit value x), and with 1 or 3 channels.

A file is read in five steps, a module each: `opening` checks it and chooses its page, `decoding`
gives the numbers in it, `shades` says which of them are black and white, `resizing` scales, and
`masks` does all of that for masks. `tiff` knows what is special about TIFFs; `png` writes.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from siren.files import file_digest
from siren.images import decoding
from siren.images.opening import (
    MAX_PIXELS,
    ImageError,
    ImageWarning,
    frames_left_out,
    open_picture,
    quoted,
)
from siren.images.png import NotANumber, encode_png, to_integers, to_uint8, write_png
from siren.images.resizing import MIN_SIDE, fit_size, scaled
from siren.images.shades import UnknownWhite, to_shades

__all__ = [
    "MAX_PIXELS",
    "MIN_SIDE",
    "DecodedImage",
    "ImageError",
    "ImageWarning",
    "NotANumber",
    "UnknownWhite",
    "content_hash",
    "decode_image",
    "encode_png",
    "fit_size",
    "image_size",
    "quoted",
    "read_image",
    "to_integers",
    "to_uint8",
    "write_png",
]


@dataclass(frozen=True)
class DecodedImage:
    """The content of a picture file, decoded once: upright and opaque, at its own size.

    pixels  (height, width, channels), black at 0 and white at 255: uint8, or float32 if the file
            has more than 8 bits or was read with a range
    bits    8 if 256 levels hold the pixels, otherwise 16
    notes   what is lost, or may not be meant as it is read
    """

    pixels: np.ndarray
    bits: int
    notes: list[ImageWarning]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.pixels.shape[:2]

    def resized(
        self,
        size: tuple[int, int] | None = None,
        given: np.ndarray | None = None,
        pure: np.ndarray | None = None,
    ) -> np.ndarray:
        """The image, float32 (height, width, channels) in [-1, 1]; arguments as of `read_image`."""
        if size is not None and min(size) < 1:
            raise ValueError(f"a size is at least 1 x 1 pixels, not {size!r}")
        image = scaled(self.pixels, size, given, pure)
        np.clip(image, 0, 255, out=image)  # bicubic overshoots in floating point, not in 8 bits
        image /= np.float32(127.5)
        image -= 1
        return image


def read_image(
    path: str | Path,
    channels: int,
    size: tuple[int, int] | None = None,
    range: tuple[float, float] | None = None,
    given: np.ndarray | None = None,
    pure: np.ndarray | None = None,
) -> np.ndarray:
    """Read the picture at `path`: upright, opaque and, with a `size`, resized.

    It reads PNG, JPEG, WebP, BMP, PPM, GIF and TIFF, of which the first frame or full page, where
    Pillow reads them exactly. EXIF orientation is applied; transparency is composited on white.

    White is the largest number of the file's depth, such as 255, 4095 or 65535. Pictures of more
    than 8 bits keep their precision. Floating-point numbers do not define their white: it is 1 if
    all are in 0..1, and 255 if all are in 0..255 and the largest is 128 or more. Others, signed
    integers and integers of 32 bits need a `range`.

    Args:
        path: an existing regular file.
        channels: 1 for luma (ITU-R BT.601, as Pillow's mode "L"), 3 for RGB (gray is replicated).
        size: (height, width) to resize to with an antialiasing bicubic filter, or None. An 8-bit
            picture is resized in 8 bits, so that a PNG can represent the result exactly.
        range: (low, high), numbers of the file that become black and white, or white and black in
            a TIFF in which 0 is white; numbers beyond are clipped. None: as above.
        given: bool, of the file's height and width: pixels that others must not leak into.
        pure: bool, of `size`: pixels of the result that are made of `given` pixels alone.

    Returns:
        float32 array (height, width, channels) in [-1, 1].

    Warns:
        ImageWarning: more pages or frames, pixels beyond `range`, or too dark for the file's bits.

    Raises:
        ImageError: the file is missing, empty, damaged, too large, transparent everywhere, not
            finite or cannot be read exactly; UnknownWhite: it needs a `range`.

    """
    decoded = decode_image(path, channels, range)
    for note in decoded.notes:
        warnings.warn(note, stacklevel=2)
    return decoded.resized(size, given, pure)


def decode_image(
    path: str | Path, channels: int, range: tuple[float, float] | None = None
) -> DecodedImage:
    """The picture at `path` before it is resized; arguments and errors as of `read_image`."""
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 or 3, not {channels!r}")
    range = None if range is None else _checked_range(range)
    with open_picture(path) as (picture, notes):
        has_8_bits = decoding.has_8_bits(picture)
        bits = 8 if has_8_bits and range in (None, (0, 255)) else 16
        if has_8_bits and range is None:
            pixels = decoding.read_8_bits(picture, path, channels)
        else:
            samples = decoding.read_samples(picture, path)
            pixels = to_shades(samples, quoted(path), range, notes)
            if channels == 1 and pixels.shape[2] == 3:
                pixels = pixels @ np.float32([[0.299], [0.587], [0.114]])
        pixels = decoding.upright(pixels, decoding.orientation(picture))
        notes += frames_left_out(picture, path)
    return DecodedImage(np.broadcast_to(pixels, (*pixels.shape[:2], channels)), bits, notes)


def _checked_range(limits) -> tuple[float, float]:
    """``limits`` as two finite numbers, the first below the second. Raises ValueError."""
    try:
        low, high = map(float, limits)
    except (TypeError, ValueError):
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"a range is two finite numbers, the lower one first, not {limits!r}")
    return low, high


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) in pixels that `read_image(path, ...)` would return, with the same errors.

    Only the header is decoded, except for PNG, whose orientation may come after the pixels, and for
    TIFF, where Pillow's version decides whether the size in the header is upright already.
    """
    with open_picture(path) as (picture, _):
        if picture.format in ("PNG", "TIFF"):
            picture.load()
        width, height = picture.size
        sideways = decoding.orientation(picture) in decoding.SIDEWAYS
    return (width, height) if sideways else (height, width)


def content_hash(path: str | Path) -> str | None:
    """`files.file_digest` of a picture; ImageError if its header is not that of one."""
    with open_picture(path):
        return file_digest(path)
