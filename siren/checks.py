"""Checks of the arrays that users of the library pass, before anything is computed from them."""

from __future__ import annotations

import warnings

import numpy as np

_ROUNDING = 1e-3  # by which an image in [-1, 1] may exceed it


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


def refuse_masked(array, name: str) -> None:
    """Raise TypeError for a NumPy masked array, of which the hidden values would be used."""
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a masked array, and what its mask hides would be used; fill it in first "
            "(array.filled), or give siren.Inpaint the mask as missing"
        )
