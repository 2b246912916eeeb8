"""Reading, checking, resizing and writing pictures.

In memory an image is a float32 array (height, width, channels) with values in [-1, 1], where -1 is
black and 1 is white (`x / 127.5 - 1` for an 8-bit value x), and with 1 or 3 channels.
"""

from __future__ import annotations

import hashlib
import io
import math
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from siren import decoding
from siren.checks import refuse_masked
from siren.depth import ImageWarning, Samples, UnknownWhite, to_shades
from siren.files import write_bytes
from siren.opening import MAX_PIXELS, ImageError, quoted
from siren.pages import frames_left_out, open_picture
from siren.resizing import scaled

__all__ = [
    "MAX_PIXELS",
    "MIN_SIDE",
    "ImageError",
    "ImageWarning",
    "NotANumber",
    "UnknownWhite",
    "bit_depth",
    "compact",
    "content_hash",
    "encode_png",
    "fit_size",
    "image_size",
    "quoted",
    "read_image",
    "read_samples",
    "to_integers",
    "to_uint8",
    "write_png",
]

#: The least number of pixels per side of a picture, after resizing.
MIN_SIDE = 8

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {  # the transposition that undoes each EXIF orientation; 1 is upright already
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)  # the orientations that swap height and width


class NotANumber(ValueError):
    """An image in memory has NaN values, which no picture file can store."""


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
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 or 3, not {channels!r}")
    if size is not None and min(size) < 1:
        raise ValueError(f"a size is at least 1 x 1 pixels, not {size!r}")
    range = None if range is None else _checked_range(range)
    with open_picture(path) as (picture, told):
        told += frames_left_out(picture, path)
        parts = _read_parts(picture, path, channels, range, told)
        orientation = _orientation(picture)
        if orientation in _UPRIGHT:
            parts = [part.transpose(_UPRIGHT[orientation]) for part in parts]
        pixels = scaled(parts, channels, size, given, pure)

    for warning in told:
        warnings.warn(warning, stacklevel=2)
    np.clip(pixels, 0, 255, out=pixels)  # bicubic overshoots in floating point, not in 8 bits
    pixels /= np.float32(127.5)
    pixels -= 1
    return pixels


def _read_parts(picture, path, channels: int, limits, told: list) -> list[Image.Image]:
    """An open picture with white at 255: in one part, or one part per channel.

    8-bit pictures become one of mode "L" or "RGB", all others become parts of mode "F".
    """
    if limits is None and decoding.has_8_bits(picture):
        part = decoding.read_8_bits(picture, path)
        return [part.convert("L") if channels == 1 else part]
    samples = decoding.read_samples(picture, path)
    shades = to_shades(samples, quoted(path), limits, told)
    if channels == 1 and shades.shape[2] == 3:
        shades = shades @ np.float32([[0.299], [0.587], [0.114]])
    return [Image.fromarray(shade) for shade in np.moveaxis(shades, 2, 0)]


def _checked_range(limits) -> tuple[float, float]:
    """``limits`` as two finite numbers, the first below the second. Raises ValueError."""
    try:
        low, high = map(float, limits)
    except (TypeError, ValueError):
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"a range is two finite numbers, the lower one first, not {limits!r}")
    return low, high


def read_samples(path: str | Path) -> tuple[Samples, list[ImageWarning]]:
    """The numbers of the file at `path`, upright, and what is said about other pages or frames.

    Raises ImageError as `read_image`.
    """
    with open_picture(path) as (picture, told):
        told += frames_left_out(picture, path)
        samples = decoding.read_samples(picture, path)
        orientation = _orientation(picture)
    samples.colour = _upright(samples.colour, orientation)
    if samples.alpha is not None:
        samples.alpha = _upright(samples.alpha, orientation)
    return samples, told


def _upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """An array (height, width, ...) transposed as `_UPRIGHT` says."""
    if orientation in _SIDEWAYS:
        array = array.swapaxes(0, 1)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return array[::rows, ::columns]


def bit_depth(path: str | Path, range: tuple[float, float] | None = None) -> int:
    """8 if 256 levels hold what `read_image` returns for `path` and `range`; otherwise 16.

    Raises ImageError if the header cannot be read.
    """
    with open_picture(path) as (picture, _):
        whole = range is None or tuple(range) == (0, 255)
        return 8 if whole and decoding.has_8_bits(picture) else 16


def compact(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """float32 `values` in 8 or 16 bits if that loses nothing: (codes, levels).

    `levels[codes]` equals `values`, bit for bit. The codes are uint8 for the pixels of an 8-bit
    picture from `read_image`, and uint16 for those of a 16-bit one. For anything else they are the
    values themselves, and `levels` is None.
    """
    for kind, white in ((np.uint8, 255), (np.uint16, 65535)):
        levels = (np.arange(white + 1) * (255 / white)).astype(np.float32)
        levels /= np.float32(127.5)
        levels -= 1
        codes = np.empty(values.size, kind)
        flat = values.reshape(-1)
        for first in range(0, values.size, 1 << 20):  # in blocks: the picture may be large
            block = flat[first : first + (1 << 20)]
            block_codes = np.rint((np.clip(block, -1, 1) + 1) * np.float32(white / 2)).astype(kind)
            if (levels[block_codes] != block).any():
                break
            codes[first : first + len(block)] = block_codes
        else:
            return codes.reshape(values.shape), levels
    return values, None


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) in pixels that `read_image(path, ...)` would return, with the same errors.

    Only the header is decoded, except for PNG, whose orientation may come after the pixels, and for
    TIFF, where Pillow's version decides whether the size in the header is upright already.
    """
    with open_picture(path) as (picture, _):
        if picture.format in ("PNG", "TIFF"):
            picture.load()
        width, height = picture.size
        return (width, height) if _orientation(picture) in _SIDEWAYS else (height, width)


def content_hash(path: str | Path) -> str:
    """A hash of the file at `path`, read in blocks.

    Raises ImageError if its header is not that of a picture; the pixels are not checked.
    """
    digest = hashlib.sha256()
    with open_picture(path), open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def fit_size(height: int, width: int, sidelength: int, aspect: str) -> tuple[int, int]:
    """(height, width) to which a picture of `height` by `width` pixels is resized.

    Args:
        height: of the picture, in pixels.
        width: of the picture, in pixels.
        sidelength: of the result, in pixels.
        aspect: "square" gives (sidelength, sidelength); "keep" makes the longer side `sidelength`
            and rounds the shorter one to the nearest pixel.

    Raises:
        ImageError: the shorter side would have fewer than `MIN_SIDE` pixels.

    """
    if aspect == "square":
        fitted = (sidelength, sidelength)
    elif aspect == "keep":
        longer = max(height, width)
        fitted = tuple((2 * side * sidelength + longer) // (2 * longer) for side in (height, width))
    else:
        raise ValueError(f"aspect must be 'square' or 'keep', not {aspect!r}")
    if min(fitted) < MIN_SIDE:
        raise ImageError(
            f"a picture of {height} x {width} pixels would be used at {fitted[0]} x {fitted[1]}, "
            f"but each side needs at least {MIN_SIDE}: choose a larger side length"
            + (", a square aspect or a less narrow picture" if aspect == "keep" else "")
        )
    return fitted


def to_uint8(image: np.ndarray) -> np.ndarray:
    """`to_integers` with 8 bits."""
    return to_integers(image, 8)


def to_integers(image: np.ndarray, bits: int) -> np.ndarray:
    """Map [-1, 1] to 0..255 (8 bits, uint8) or 0..65535 (16 bits, uint16); same shape.

    Values are clipped and rounded to nearest. This inverts `read_image` exactly for pictures of as
    many bits. Raises NotANumber for NaN, and TypeError for a masked array.
    """
    refuse_masked(image, "the image")
    image = np.asarray(image)
    if np.isnan(image).any():
        raise NotANumber("the image holds values that are not numbers (NaN)")
    white, kind = {8: (255, np.uint8), 16: (65535, np.uint16)}[bits]
    return np.rint((np.clip(image, -1, 1) + 1) * (white / 2)).astype(kind)


def write_png(path: str | Path, image: np.ndarray, bits: int = 8) -> None:
    """Write `image` as a PNG, atomically.

    Args:
        path: the file to create or replace; its folder must exist.
        image: as for `encode_png`.
        bits: 8 or 16 per value of the file; only for images in [-1, 1].

    Raises:
        OSError: the file cannot be written; nothing is left behind.

    """
    write_bytes(Path(path), encode_png(image, bits))


def encode_png(image: np.ndarray, bits: int = 8) -> bytes:
    """The content of a PNG file.

    Args:
        image: (height, width), (height, width, 1) or (height, width, 3); uint8 and uint16 are
            written as they are, other types are converted from [-1, 1] by `to_integers`.
        bits: 8 or 16 per value of the file; only for images in [-1, 1].

    """
    refuse_masked(image, "the image")
    image = np.asarray(image)
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


def _orientation(picture: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 if there is none or it is invalid."""
    try:
        orientation = picture.getexif().get(_ORIENTATION_TAG)
        return orientation if orientation in _UPRIGHT else 1
    except Exception:  # a picture whose EXIF block is broken is still a picture
        return 1
