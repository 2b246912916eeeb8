"""Pictures in memory: checked, captioned, and drawn of derivatives and errors."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

PERCENTILE = 99.5  # of the absolute values becomes full scale: a few edges exceed all others by far
_ROUNDING = 1e-3  # by which an image in [-1, 1] may exceed it


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
    """The ``magnitude`` of a gradient (height, width, channels), with its scale."""
    image, largest = magnitude(rows, columns)
    return Picture(caption, image, ("0", f"{largest:.2g} or more"))


def laplacian_picture(laplacian: np.ndarray, caption="Laplacian") -> Picture:
    """A ``signed`` picture of a Laplacian (height, width, channels), with its scale."""
    image, largest = signed(laplacian)
    return Picture(caption, image, (f"{-largest:.2g} or less", f"{largest:.2g} or more"))


def error_picture(
    output: np.ndarray, reference: np.ndarray, caption="|error|", largest: float | None = None
) -> Picture:
    """The ``absolute_error`` of ``output`` (height, width, channels), with its scale."""
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


# ---- checks of the arrays that users of the library pass -----------------------------------------


def checked_image(image, name: str = "image", shape: tuple | None = None) -> np.ndarray:
    """``image`` as float32, if it is a picture as ``read_image`` returns it.

    Args:
        image: a NumPy array (height, width, channels) of floating-point numbers, black at -1 and
            white at 1; numbers beyond are allowed, and warned of.
        name: what errors call it.
        shape: the shape that it needs to have, or None.

    Raises:
        TypeError: it is no NumPy array, a masked one, or not of floating-point numbers.
        ValueError: it has another shape, no pixels, or values that are NaN or infinite.

    """
    refuse_masked(image, name)
    if not isinstance(image, np.ndarray):
        raise TypeError(
            f"{name} is a {type(image).__name__}, not a NumPy array; siren.read_image returns one"
        )
    if not np.issubdtype(image.dtype, np.floating):
        way_out = "; for 0..255 that is image / 127.5 - 1" if image.dtype == np.uint8 else ""
        raise TypeError(f"{name} has numbers of type {image.dtype}, not floats in [-1, 1]{way_out}")
    if image.ndim != 3 or image.size == 0:
        raise ValueError(f"{name} has shape {image.shape}, not (height, width, channels)")
    if shape is not None and image.shape != tuple(shape):
        raise ValueError(f"{name} has shape {image.shape}, but needs {tuple(shape)}")
    low, high = image.min(), image.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        count = int((~np.isfinite(image)).sum())
        raise ValueError(
            f"{name} has values that are NaN or infinite ({count} of {image.size}); replace them "
            "first"
        )
    if max(-low, high) > 1 + _ROUNDING:
        warnings.warn(
            f"{name} has values from {low:.4g} to {high:.4g}; black is -1 and white is 1",
            stacklevel=3,
        )
    return image.astype(np.float32, copy=False)


def checked_mask(mask, name: str, shape: tuple[int, int]) -> np.ndarray:
    """``mask``, if it is a bool array (height, width) of this ``shape``.

    Raises TypeError for another type, and ValueError for another shape.
    """
    refuse_masked(mask, name)
    if not isinstance(mask, np.ndarray) or mask.dtype != bool:
        kind = getattr(mask, "dtype", type(mask).__name__)
        raise TypeError(f"{name} is of type {kind}, not a bool array; compare it, as in mask > 0")
    if mask.shape != tuple(shape):
        raise ValueError(f"{name} has shape {mask.shape}, but the image has {tuple(shape)}")
    return mask


def refuse_masked(array, name: str):
    """``array``; TypeError if it is a NumPy masked one, of which hidden values would be used."""
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a masked array, and what its mask hides would be used; fill it in first "
            "(array.filled), or give siren.Inpaint the mask as missing"
        )
    return array
