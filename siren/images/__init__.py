"""Reading, scaling and writing pictures.

In memory an image is a float32 array (height, width, channels) with values in [-1, 1], where -1 is
black and 1 is white (`x / 127.5 - 1` for an 8-bit value x), and with 1 or 3 channels.

A file is read in steps, a module each: `opening` checks it and chooses its page, `decoding` gives
the numbers in it and says which of them are black and white. `masks` does all of that for masks.
"""

from __future__ import annotations

import io
import math
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from siren.files import write_bytes
from siren.images import decoding
from siren.images.opening import ImageError, ImageWarning, open_picture, quoted
from siren.pictures import refuse_masked

#: The least number of pixels per side of a picture, after resizing.
MIN_SIDE = 8


class NotANumber(ValueError):
    """An image in memory has NaN values, which no picture file can store."""


@dataclass(frozen=True)
class DecodedImage:
    """The content of a picture file, decoded once: upright and opaque, at its own size.

    pixels  (height, width, channels), black at 0 and white at 255: uint8, or float32 if the file
            has more than 8 bits or was read with a range
    notes   what is lost, or may not be meant as it is read
    """

    pixels: np.ndarray
    notes: list[ImageWarning]

    @property
    def bits(self) -> int:
        """8 if 256 levels hold the pixels, otherwise 16."""
        return 8 if self.pixels.dtype == np.uint8 else 16

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
        pixels = self.pixels
        if size is None or tuple(size) == self.size:
            image = pixels.astype(np.float32)
        else:
            image = np.empty((*size, pixels.shape[2]), np.float32)
            for channel in range(pixels.shape[2]):
                image[..., channel] = resize(pixels[..., channel], size)
            if given is not None:
                purify(image, pixels, given, pure)
                if pixels.dtype == np.uint8:
                    np.rint(image, out=image)  # as without a mask, 8 bits hold all numbers
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
    all are in 0..1, and 255 if all are in 0..255 and the largest is 128 or more. Others need a
    `range`.

    Args:
        path: an existing regular file.
        channels: 1 for luma (ITU-R BT.601, as Pillow's mode "L"), 3 for RGB (gray is replicated).
        size: (height, width) to resize to with an antialiasing bicubic filter, or None. An 8-bit
            picture is resized in 8 bits, so that a PNG can represent the result exactly.
        range: (low, high), numbers of the file that become black and white; numbers beyond are
            clipped. None: as above.
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
    if range is not None:
        low, high = range = tuple(map(float, range))
        if not -math.inf < low < high < math.inf:
            raise ValueError(f"a range is two finite numbers, the lower one first, not {range!r}")
    with open_picture(path) as (picture, notes):
        samples = decoding.read_samples(picture, path, notes)
        pixels = decoding.to_shades(samples, quoted(path), range, notes)
        if channels == 1 and pixels.shape[2] == 3:
            pixels = decoding.luma(pixels)[..., None]
    return DecodedImage(np.broadcast_to(pixels, (*pixels.shape[:2], channels)), notes)


# ---- scaling -----------------------------------------------------------------------------------


def fit_size(height: int, width: int, sidelength: int, aspect: str) -> tuple[int, int]:
    """(height, width) to which a picture of `height` by `width` pixels is resized.

    The `aspect` "square" gives (sidelength, sidelength); "keep" makes the longer side `sidelength`
    and rounds the shorter one to the nearest pixel. Raises ImageError if the shorter side would
    have fewer than `MIN_SIDE` pixels.
    """
    if aspect == "square":
        fitted = (sidelength, sidelength)
    else:
        longer = max(height, width)
        fitted = tuple((2 * side * sidelength + longer) // (2 * longer) for side in (height, width))
    if min(fitted) < MIN_SIDE:
        raise ImageError(
            f"a picture of {height} x {width} pixels would be used at {fitted[0]} x {fitted[1]}, "
            f"but each side needs at least {MIN_SIDE}: choose a larger side length"
            + (", a square aspect or a less narrow picture" if aspect == "keep" else "")
        )
    return fitted


def resize(
    values: np.ndarray, size: tuple[int, int], kernel: Image.Resampling = Image.Resampling.BICUBIC
) -> np.ndarray:
    """``values`` (height, width), uint8 or float32, at ``size``, by an antialiasing filter."""
    return np.asarray(Image.fromarray(values).resize((size[1], size[0]), kernel))


def fit_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """``mask`` on the pixels of a picture of another size, each taking the nearest of its own."""
    places = [(2 * np.arange(n) + 1) * m // (2 * n) for n, m in zip(size, mask.shape)]
    return mask[np.ix_(*places)]


def purify(result: np.ndarray, native: np.ndarray, given: np.ndarray, pure: np.ndarray) -> None:
    """Make scaled pixels anew where pixels that are not given have a part in them.

    The filter's weights at the other pixels are left out and the rest is renormalized. Where that
    leaves little of the bicubic filter, whose weights have both signs, the triangle filter is used.

    Args:
        result: float32 (height, width, channels), scaled from ``native``; it is changed.
        native: uint8 or float32, the same picture before.
        given: bool (height, width) of ``native``: the pixels that may be used.
        pure: bool (height, width) of ``result``: the pixels that are made of given ones alone.

    """
    from scipy import ndimage

    size = result.shape[:2]
    reach = [2 * max(1, -(-n // m)) + 1 for n, m in zip(given.shape, size)]  # of the bicubic filter
    near = ndimage.maximum_filter(~given, [2 * r + 1 for r in reach])
    touched = pure & fit_mask(near, size)
    weights = given.astype(np.float32)
    bicubic = resize(weights, size)
    triangle = resize(weights, size, Image.Resampling.BILINEAR)
    sharp = touched & (bicubic > 0.5)
    soft = touched & ~sharp
    for channel in range(result.shape[2]):
        product = weights * native[..., channel]
        smooth = resize(product, size, Image.Resampling.BILINEAR)
        result[sharp, channel] = resize(product, size)[sharp] / bicubic[sharp]
        result[soft, channel] = smooth[soft] / triangle[soft]


# ---- writing -----------------------------------------------------------------------------------


def to_uint8(image: np.ndarray) -> np.ndarray:
    """`to_integers` with 8 bits."""
    return to_integers(image, 8)


def to_integers(image: np.ndarray, bits: int) -> np.ndarray:
    """Map [-1, 1] to 0..255 (8 bits, uint8) or 0..65535 (16 bits, uint16); same shape.

    Values are clipped and rounded to nearest. This inverts `read_image` exactly for pictures of as
    many bits. Raises NotANumber for NaN, and TypeError for a masked array.
    """
    image = np.asarray(refuse_masked(image, "the image"))
    if np.isnan(image).any():
        raise NotANumber("the image holds values that are not numbers (NaN)")
    white, kind = {8: (255, np.uint8), 16: (65535, np.uint16)}[bits]
    return np.rint((np.clip(image, -1, 1) + 1) * (white / 2)).astype(kind)


def draw_uint8(draw: Callable, *arrays: np.ndarray) -> np.ndarray:
    """The picture that ``draw(*arrays)`` returns first, such as ``pictures.signed``, as uint8."""
    return to_uint8(draw(*arrays)[0])


def write_png(path: str | Path, image: np.ndarray, bits: int = 8) -> None:
    """Write the content of `encode_png`, with the same arguments, atomically.

    The folder of `path` must exist. Raises OSError if the file cannot be written; then nothing is
    left behind.
    """
    write_bytes(Path(path), encode_png(image, bits))


def encode_png(image: np.ndarray, bits: int = 8) -> bytes:
    """The content of a PNG file.

    Args:
        image: (height, width), (height, width, 1) or (height, width, 3); uint8 and uint16 are
            written as they are, other types are converted from [-1, 1] by `to_integers`.
        bits: 8 or 16 per value of the file; only for images in [-1, 1].

    """
    image = np.asarray(refuse_masked(image, "the image"))
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if image.size == 0 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        raise ValueError(f"an image has shape (height, width[, 1 or 3]), not {image.shape}")
    pixels = image if image.dtype in (np.uint8, np.uint16) else to_integers(image, bits)
    if pixels.dtype == np.uint16:
        return _png_16_bit(pixels)
    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(content, format="PNG")
    return content.getvalue()


def _png_16_bit(pixels: np.ndarray) -> bytes:
    """A 16-bit PNG of uint16 (height, width) or (height, width, 3), which Pillow cannot write."""
    height, width = pixels.shape[:2]
    rows = pixels.astype(">u2").view(np.uint8).reshape(height, -1)
    filtered = np.full((height, 1 + rows.shape[1]), 2, np.uint8)  # filter 2: minus the row above
    filtered[:, 1:] = rows
    filtered[1:, 1:] -= rows[:-1]
    header = struct.pack(">IIBBBBB", width, height, 16, 0 if pixels.ndim == 2 else 2, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(filtered)), (b"IEND", b"")
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, data in chunks:
        parts += [struct.pack(">I", len(data)), kind, data]
        parts.append(struct.pack(">I", zlib.crc32(kind + data)))
    return b"".join(parts)
