"""Reading, checking, resizing and writing pictures.

In memory an image is a float32 array (height, width, channels) with values in [-1, 1], where -1 is
black and 1 is white (`x / 127.5 - 1` for an 8-bit value x), and with 1 or 3 channels.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
import stat
import struct
import sys
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from scipy import ndimage

from siren import tiff
from siren.files import write_bytes
from siren.text import printable

#: Larger pictures are refused after reading the header, before their pixels take memory.
MAX_PIXELS = 2**28
#: The least number of pixels per side of a picture, after resizing.
MIN_SIDE = 8

# Listed because Pillow would otherwise also try formats that start other programs (EPS).
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
_READABLE = "PNG, JPEG, WebP, BMP, TIFF, GIF or PPM"

# Raw modes of 16 bits per channel, which Pillow reduces to 8. L: little endian, B: big, N: native.
_RAW_16_BIT = re.compile(r"(RGBA?|LA);16([LBN])")

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


class ImageError(ValueError):
    """A picture cannot be used; the message is one sentence that says why."""


class NotANumber(ValueError):
    """An image in memory has NaN values, which no picture file can store."""


class Notice(UserWarning):
    """A picture is used otherwise than its author may expect; one sentence says how."""


def read_image(
    path: str | Path,
    channels: int,
    size: tuple[int, int] | None = None,
    given: np.ndarray | None = None,
    pure: np.ndarray | None = None,
) -> np.ndarray:
    """Read the picture at `path`: upright, opaque and, with a `size`, resized.

    It reads PNG, JPEG, WebP, BMP, PPM, the first frame of a GIF and the first page of a TIFF, in
    every colour mode that Pillow knows. EXIF orientation is applied; transparent pixels are
    composited on white.

    White is 255 in 8-bit pictures and 65535 in 16-bit ones, which keep their precision (except PPM
    in colour, which is read at 8 bits). A floating-point TIFF does not define its white: it is
    assumed to be 1 if no value exceeds 2, and 255 otherwise; values beyond black or white are
    clipped.

    Args:
        path: an existing regular file.
        channels: 1 for luma (ITU-R BT.601, as Pillow's mode "L"), 3 for RGB (gray is replicated).
        size: (height, width) to resize to with an antialiasing bicubic filter, or None. An 8-bit
            picture is resized in 8 bits, so that a PNG can represent the result exactly.
        given: bool, of the file's height and width: pixels that others must not leak into.
        pure: bool, of `size`: pixels of the result that are made of `given` pixels alone.

    Returns:
        float32 array (height, width, channels) in [-1, 1].

    Raises:
        ImageError: the file is missing, empty, damaged, too large or not a picture.

    """
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 or 3, not {channels!r}")
    if size is not None and min(size) < 1:
        raise ValueError(f"a size is at least 1 x 1 pixels, not {size!r}")
    with _open_picture(path) as picture:
        raw_mode = _raw_mode(picture)
        is_colour_16_bit = _RAW_16_BIT.fullmatch(raw_mode)
        if tiff.has_wrong_byte_order(picture):
            _set_raw_mode(picture, raw_mode.replace("B", "N"))
        picture.load()
        orientation = _orientation(picture)
        if picture.mode.startswith("I") or picture.mode == "F":
            parts = [_high_depth_gray(picture, path)]
        elif is_colour_16_bit:
            parts = _colour_16_bit(picture, path, channels)
        else:
            parts = [_opaque_rgb(picture)]
            if channels == 1:
                parts = [parts[0].convert("L")]
        if orientation in _UPRIGHT:
            parts = [part.transpose(_UPRIGHT[orientation]) for part in parts]
        pixels = _resized(parts, channels, size, given, pure)

    np.clip(pixels, 0, 255, out=pixels)  # bicubic overshoots in floating point, not in 8 bits
    pixels /= np.float32(127.5)
    pixels -= 1
    return pixels


def _as_array(parts: list[Image.Image], channels: int) -> np.ndarray:
    """One picture, or one per channel, as float32 (height, width, channels)."""
    width, height = parts[0].size
    pixels = np.empty((height, width, channels), np.float32)  # the only copy: it may be large
    if len(parts) == 1:
        values = np.asarray(parts[0])
        pixels[...] = values if values.ndim == 3 else values[..., None]
    else:
        for channel, part in enumerate(parts):
            pixels[..., channel] = part
    return pixels


def _resized(parts: list[Image.Image], channels: int, size, given, pure) -> np.ndarray:
    """The pixels of `_as_array(parts, channels)` at `size`; arguments as of `read_image`."""
    if size is None or parts[0].size == (size[1], size[0]):
        return _as_array(parts, channels)
    side = size[1], size[0]
    scaled = [part.resize(side, Image.Resampling.BICUBIC) for part in parts]
    pixels = _as_array(scaled, channels)
    if given is not None:
        _purify(pixels, _as_array(parts, channels), given, pure)
        if parts[0].mode != "F":
            np.rint(pixels, out=pixels)
    return pixels


def _purify(scaled: np.ndarray, pixels: np.ndarray, given: np.ndarray, pure: np.ndarray) -> None:
    """Make the `pure` ones of the `scaled` pixels anew where others than `given` ones touch them.

    The filter's weights at the other pixels are left out and the rest is renormalised. Where that
    leaves little of the bicubic filter, whose weights have both signs, the triangle filter is used.
    """
    size = scaled.shape[:2]
    reach = [2 * max(1, -(-n // m)) + 1 for n, m in zip(given.shape, size)]  # of the bicubic filter
    near = ndimage.maximum_filter(~given, [2 * r + 1 for r in reach])
    centres = [(2 * np.arange(m) + 1) * n // (2 * m) for n, m in zip(given.shape, size)]
    touched = pure & near[np.ix_(*centres)]
    weights = given.astype(np.float32)
    bicubic = resize(weights, size)
    triangle = resize(weights, size, Image.Resampling.BILINEAR)
    for channel in range(scaled.shape[2]):
        product = weights * pixels[..., channel]
        sharp = touched & (bicubic > 0.5)
        scaled[sharp, channel] = resize(product, size)[sharp] / bicubic[sharp]
        soft = touched & ~sharp
        smooth = resize(product, size, Image.Resampling.BILINEAR)
        scaled[soft, channel] = smooth[soft] / triangle[soft]


def resize(
    values: np.ndarray, size: tuple[int, int], kernel: Image.Resampling = Image.Resampling.BICUBIC
) -> np.ndarray:
    """float32 `values` (height, width) resized to `size`, with an antialiasing filter."""
    return np.asarray(Image.fromarray(values).resize((size[1], size[0]), kernel))


def read_values(path: str | Path) -> tuple[np.ndarray, float, np.ndarray | None]:
    """The numbers of a picture, upright: (values, white, alpha).

    `values` are float32 (height, width, 1 or 3) as they stand in the file, where `white` is white;
    `alpha` is None or (height, width) in 0..1, not applied to the values. Colours have 8 bits.
    Raises ImageError as `read_image`.
    """
    with _open_picture(path) as picture:
        if tiff.has_wrong_byte_order(picture):
            _set_raw_mode(picture, _raw_mode(picture).replace("B", "N"))
        picture.load()
        upright = _UPRIGHT.get(_orientation(picture))
        if upright is not None:
            picture = picture.transpose(upright)
        if picture.mode.startswith("I") or picture.mode == "F":
            values = np.asarray(picture, np.float32)
            white = 65535.0 if picture.mode != "F" else 1.0 if values.max() <= 1 else 255.0
            if tiff.white_is_zero(picture):
                values = white - values
            return values[..., None], white, None
        gray = picture.mode in ("1", "L", "LA")
        if picture.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
            bands = np.asarray(picture.convert("RGBA"), np.float32)
            return bands[..., : 1 if gray else 3], 255.0, bands[..., 3] / 255
        values = np.asarray(picture.convert("L" if gray else "RGB"), np.float32)
        return values.reshape(*values.shape[:2], -1), 255.0, None


def bit_depth(path: str | Path) -> int:
    """Bits per value of the picture at `path`: 8, or 16 if it has more than 8.

    Raises ImageError if the header cannot be read.
    """
    with _open_picture(path) as picture:
        gray = picture.mode.startswith("I") or picture.mode == "F"
        return 16 if gray or _RAW_16_BIT.fullmatch(_raw_mode(picture)) else 8


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
    with _open_picture(path) as picture:
        if picture.format in ("PNG", "TIFF"):
            picture.load()
        width, height = picture.size
        return (width, height) if _orientation(picture) in _SIDEWAYS else (height, width)


def content_hash(path: str | Path) -> str:
    """A hash of the file at `path`, read in blocks.

    Raises ImageError if its header is not that of a picture; the pixels are not checked.
    """
    digest = hashlib.sha256()
    with _open_picture(path), open(path, "rb") as file:
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
    many bits. Raises NotANumber for NaN.
    """
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


@contextmanager
def _open_picture(path: str | Path) -> Iterator[Image.Image]:
    """Open the picture at `path` and check its header; errors in the context become ImageErrors."""
    name = repr(str(path))  # one printable line, whatever the name is
    _check_file(path, name)
    try:
        with (
            _limit_pixels(),
            _suppress_messages(),
            open(path, "rb") as file,
            Image.open(file, "r", _FORMATS) as picture,
        ):
            if min(picture.size) < 1:
                raise ImageError(f"{name} is a picture without pixels")
            if picture.width * picture.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            _refuse_tiff(name, tiff.misread_kind(picture))
            yield picture
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        with _suppress_messages():
            _refuse_tiff(name, tiff.unknown_kind(path))
        raise ImageError(f"{name} is not a {_READABLE} picture, or is damaged") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} has more than {MAX_PIXELS} pixels; make it smaller") from error
    except MemoryError as error:
        raise ImageError(f"{name} does not fit into memory; make it smaller") from error
    except Exception as error:  # on damaged files Pillow raises nearly anything
        _raise_if_from_system(error, name)
        reason = printable(" ".join(str(error).split())[:100]) or type(error).__name__
        raise ImageError(f"{name} cannot be read; it may be damaged ({reason})") from error


def _refuse_tiff(name: str, kind: str) -> None:
    """Raise ImageError if ``kind``, which describes the unreadable feature of a TIFF, is not ""."""
    if kind:
        raise ImageError(
            f"{name} is a TIFF with {kind}, which cannot be read; save it as a PNG of 8 or 16 bits"
        )


def _check_file(path: str | Path, name: str) -> None:
    """Raise ImageError unless there is a regular file with content at ``path``.

    This is checked before opening, which would block forever on a pipe.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        _raise_if_from_system(error, name)
        raise ImageError(f"{name} cannot be read, it is not a valid name ({error})") from error
    if stat.S_ISDIR(status.st_mode):
        raise ImageError(f"{name} is a folder; name a picture in it")
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(f"{name} is not a regular file")
    if status.st_size == 0:
        raise ImageError(f"{name} is empty")


def _raise_if_from_system(error: Exception, name: str) -> None:
    """Raise ImageError if ``error`` comes from the operating system, not from Pillow."""
    if isinstance(error, FileNotFoundError):
        raise ImageError(f"{name} does not exist") from error
    if isinstance(error, PermissionError):
        raise ImageError(
            f"{name} may not be read; change its permissions or those of its folder"
        ) from error
    if isinstance(error, OSError) and error.strerror:
        reason = error.strerror.lower()
        raise ImageError(f"{name} cannot be read: {reason}; name another file") from error


@contextmanager
def _suppress_messages() -> Iterator[None]:
    """Suppress the messages of Pillow and its libraries about the content of a file.

    Pillow warns and logs; libtiff and its JPEG decoder write to the standard error descriptor.
    """
    logger = logging.getLogger("PIL")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings(), _silent_stderr():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _limit_pixels() -> Iterator[None]:
    """Have Pillow refuse a picture above `MAX_PIXELS`; it raises at twice its own limit."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


@contextmanager
def _silent_stderr() -> Iterator[None]:
    try:
        stderr = os.dup(2)
    except OSError:  # already closed
        yield
        return
    try:
        with open(os.devnull, "wb") as null:
            os.dup2(null.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def _orientation(picture: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 if there is none or it is invalid."""
    try:
        orientation = picture.getexif().get(_ORIENTATION_TAG)
        return orientation if orientation in _UPRIGHT else 1
    except Exception:  # a picture whose EXIF block is broken is still a picture
        return 1


def _raw_mode(picture: Image.Image) -> str:
    """The raw mode by which Pillow will unpack the pixels of a picture that is not loaded yet."""
    arguments = picture.tile[0][3] if picture.tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _set_raw_mode(picture: Image.Image, raw_mode: str) -> None:
    """Have Pillow unpack the pixels by ``raw_mode`` when it loads them."""
    for number, tile in enumerate(picture.tile):
        arguments = (raw_mode, *tile[3][1:]) if isinstance(tile[3], tuple) else raw_mode
        if hasattr(tile, "_replace"):  # a named tuple since Pillow 11
            picture.tile[number] = tile._replace(args=arguments)
        else:
            picture.tile[number] = (*tile[:3], arguments)


def _colour_16_bit(picture: Image.Image, path: str | Path, channels: int) -> list[Image.Image]:
    """The channels of a 16-bit colour (or transparent gray) picture, as `_high_depth_gray`.

    `picture` is loaded and has the high byte of each value, which is all that Pillow reads. The
    file is read again with the byte order reversed, which gives the low bytes.
    """
    with _open_picture(path) as reopened:
        kind, order = _RAW_16_BIT.fullmatch(_raw_mode(reopened)).groups()
        if order == "N":
            order = sys.byteorder[0].upper()
        reverse = f"{kind};16{'B' if order == 'L' else 'L'}"
        if kind == "LA":  # Pillow knows only one order of it; read its bytes as four channels
            reverse = "RGBA"
        _set_raw_mode(reopened, reverse)
        reopened.load()
        low = np.asarray(reopened)
    if kind == "LA":
        values = low[..., ::2] * np.float32(256) + low[..., 1::2]
    else:
        values = np.asarray(picture) * np.float32(256) + low
    transparent = picture.info.get("transparency")  # of a PNG: the one transparent colour
    if isinstance(transparent, tuple) and len(transparent) == values.shape[2]:
        values[(values == transparent).all(axis=2)] = 65535
    if values.shape[2] in (2, 4):
        alpha = values[..., -1:] / np.float32(65535)
        values = values[..., :-1] * alpha + 65535 * (1 - alpha)
    if channels == 1 and values.shape[2] == 3:
        values = values @ np.float32([[0.299], [0.587], [0.114]])
    values *= np.float32(255 / 65535)
    return [Image.fromarray(values[..., i]) for i in range(values.shape[2])]


def _opaque_rgb(picture: Image.Image) -> Image.Image:
    """Any 8-bit (or 1-bit) picture as RGB; transparent pixels are composited on white."""
    if picture.mode == "LAB":
        from PIL import ImageCms  # an optional part of Pillow, for a rare mode

        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(picture, lab, srgb, outputMode="RGB")
    if picture.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")


def _high_depth_gray(picture: Image.Image, path: str | Path) -> Image.Image:
    """A 16-bit, 32-bit or floating-point gray picture as mode "F" with white at 255."""
    values = np.array(picture, dtype=np.float64)
    low, high = values.min(), values.max()  # the comparisons below reject NaN and infinity too
    if picture.mode == "F":
        white = 1.0 if high <= 2 else 255.0
        if not (-2 * white <= low and high <= 2 * white):
            raise ImageError(
                f"{str(path)!r} has floating-point values from {low:g} to {high:g}; "
                "scale them to 0..1 or 0..255"
            )
    else:
        white = 65535.0
        if low < 0 or high > white:  # only in 32-bit TIFFs, whose white is unknown
            raise ImageError(
                f"{str(path)!r} has integer values outside 0..65535; convert it to 8 or 16 bits"
            )
        transparent = picture.info.get("transparency")  # of a PNG: the one transparent value
        if isinstance(transparent, int):
            values[values == transparent] = white
    if tiff.white_is_zero(picture):
        values = white - values
    return Image.fromarray(np.clip(values * (255 / white), 0, 255).astype(np.float32))
