"""Writing pictures: from values in [-1, 1] to the bytes of a PNG of 8 or 16 bits."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from siren.files import write_bytes
from siren.pictures import refuse_masked


class NotANumber(ValueError):
    """An image in memory has NaN values, which no picture file can store."""


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
