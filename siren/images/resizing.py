"""The size of a picture, and scaling, also where only some pixels may be used."""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy import ndimage

from siren.images.opening import ImageError

#: The least number of pixels per side of a picture, after resizing.
MIN_SIDE = 8


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


def scaled(pixels: np.ndarray, size=None, given=None, pure=None) -> np.ndarray:
    """``pixels`` (height, width, channels), uint8 or float32, as float32 at ``size``.

    By an antialiasing bicubic filter; not at all if ``size`` is None. ``given`` and ``pure`` are
    None or as of ``purify``. Pictures of 8 bits keep whole numbers.
    """
    if size is None or tuple(size) == pixels.shape[:2]:
        return pixels.astype(np.float32)
    result = np.empty((*size, pixels.shape[2]), np.float32)
    for channel in range(pixels.shape[2]):
        result[..., channel] = resize(pixels[..., channel], size)
    if given is not None:
        purify(result, pixels, given, pure)
        if pixels.dtype == np.uint8:
            np.rint(result, out=result)
    return result


def resize(
    values: np.ndarray, size: tuple[int, int], kernel: Image.Resampling = Image.Resampling.BICUBIC
) -> np.ndarray:
    """``values`` (height, width), uint8 or float32, at ``size``, by an antialiasing filter."""
    return np.asarray(Image.fromarray(values).resize((size[1], size[0]), kernel))


def purify(result: np.ndarray, native: np.ndarray, given: np.ndarray, pure: np.ndarray) -> None:
    """Make scaled pixels anew where pixels that are not given have a part in them.

    The filter's weights at the other pixels are left out and the rest is renormalised. Where that
    leaves little of the bicubic filter, whose weights have both signs, the triangle filter is used.

    Args:
        result: float32 (height, width, channels), scaled from ``native``; it is changed.
        native: uint8 or float32, the same picture before.
        given: bool (height, width) of ``native``: the pixels that may be used.
        pure: bool (height, width) of ``result``: the pixels that are made of given ones alone.

    """
    size = result.shape[:2]
    reach = [2 * max(1, -(-n // m)) + 1 for n, m in zip(given.shape, size)]  # of the bicubic filter
    near = ndimage.maximum_filter(~given, [2 * r + 1 for r in reach])
    centres = [(2 * np.arange(m) + 1) * n // (2 * m) for n, m in zip(given.shape, size)]
    touched = pure & near[np.ix_(*centres)]
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
