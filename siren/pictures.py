"""Captioned pictures, and pictures of derivatives and errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from siren.checks import refuse_masked

PERCENTILE = 99.5  # of the absolute values becomes full scale: a few edges exceed all others by far


@dataclass(frozen=True)
class Picture:
    """One captioned picture of a panel.

    image  (height, width, channels) in [-1, 1]
    scale  what black and what white stand for, in words; None: nothing but themselves
    """

    caption: str
    image: np.ndarray
    scale: tuple[str, str] | None = None


def gradient_picture(rows: np.ndarray, columns: np.ndarray, caption="|gradient|") -> Picture:
    """The ``magnitude`` of a gradient (height, width, channels), with its scale.

    Raises TypeError for masked arrays.
    """
    refuse_masked(rows, "rows")
    refuse_masked(columns, "columns")
    image, largest = magnitude(rows, columns)
    return Picture(caption, image, ("0", f"{largest:.2g} or more"))


def laplacian_picture(laplacian: np.ndarray, caption="Laplacian") -> Picture:
    """A ``signed`` picture of a Laplacian (height, width, channels), with its scale.

    Raises TypeError for a masked array.
    """
    refuse_masked(laplacian, "laplacian")
    image, largest = signed(laplacian)
    return Picture(caption, image, (f"{-largest:.2g} or less", f"{largest:.2g} or more"))


def error_picture(
    output: np.ndarray, reference: np.ndarray, caption="|error|", largest: float | None = None
) -> Picture:
    """The ``absolute_error`` of ``output`` (height, width, channels), with its scale.

    Raises TypeError for masked arrays.
    """
    refuse_masked(output, "output")
    refuse_masked(reference, "reference")
    image, largest = absolute_error(output, reference, largest)
    return Picture(caption, image, ("0", f"{largest:.2g}"))


def signed(values: np.ndarray, largest: float | None = None) -> tuple[np.ndarray, float]:
    """Picture of signed ``values`` (height, width, channels): zero is mid-gray.

    Returns (picture in [-1, 1], the absolute value drawn as black or white). The latter is
    ``largest``, by default the ``PERCENTILE`` of the absolute values.
    """
    if largest is None:
        largest = float(np.percentile(np.abs(values), PERCENTILE))
    return np.clip(values / max(largest, 1e-12), -1, 1).astype(np.float32), largest


def magnitude(
    rows: np.ndarray, columns: np.ndarray, largest: float | None = None
) -> tuple[np.ndarray, float]:
    """Picture of a field's magnitude, channel by channel: zero is black.

    Returns (picture (height, width, channels) in [-1, 1], the magnitude drawn as white). The latter
    is ``largest``, by default the ``PERCENTILE`` of the magnitude.
    """
    length = np.hypot(rows, columns)
    if largest is None:
        largest = float(np.percentile(length, PERCENTILE))
    return np.clip(2 * length / max(largest, 1e-12) - 1, -1, 1).astype(np.float32), largest


def absolute_error(
    output: np.ndarray, reference: np.ndarray, largest: float | None = None
) -> tuple[np.ndarray, float]:
    """Picture of |output - reference|, mean over channels: zero is black.

    Returns (picture (height, width, 1) in [-1, 1], the error drawn as white). The latter is
    ``largest``, which no error exceeds, by default the largest one.
    """
    error = np.abs(output - reference).mean(axis=2, keepdims=True)
    if largest is None:
        largest = float(error.max())
    return (2 * error / max(largest, 1e-12) - 1).astype(np.float32), largest


def translate(array: np.ndarray, offset: tuple[int, int], fill=None) -> np.ndarray:
    """``array`` (height, width, ...) translated by (rows, columns).

    Pixels from outside are ``fill``; None: copies of the nearest pixel.
    """
    height, width = array.shape[:2]
    rows, columns = (np.arange(n) - by for n, by in zip((height, width), offset))
    result = array[np.clip(rows, 0, height - 1)[:, None], np.clip(columns, 0, width - 1)]
    if fill is not None:
        inside = (rows == np.clip(rows, 0, height - 1))[:, None] & (
            columns == np.clip(columns, 0, width - 1)
        )
        result = np.where(inside, result, fill)
    return result
