"""Scaling of pictures, also of those of which only some pixels may be used."""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy import ndimage


def scaled(parts: list[Image.Image], channels: int, size=None, given=None, pure=None) -> np.ndarray:
    """A picture, or one per channel, as float32 (height, width, channels) at ``size``.

    By an antialiasing bicubic filter; not at all if ``size`` is None. ``given`` and ``pure`` are
    None or as of ``purify``. Pictures of 8 bits keep whole numbers.
    """
    side = None if size is None else (size[1], size[0])
    if side in (None, parts[0].size):
        return _as_array(parts, channels)
    result = _as_array([part.resize(side, Image.Resampling.BICUBIC) for part in parts], channels)
    if given is not None:
        purify(result, _as_array(parts, channels), given, pure)
        if parts[0].mode != "F":
            np.rint(result, out=result)
    return result


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


def resize(
    values: np.ndarray, size: tuple[int, int], kernel: Image.Resampling = Image.Resampling.BICUBIC
) -> np.ndarray:
    """float32 ``values`` (height, width) at ``size``, by an antialiasing filter."""
    return np.asarray(Image.fromarray(values).resize((size[1], size[0]), kernel))


def purify(result: np.ndarray, native: np.ndarray, given: np.ndarray, pure: np.ndarray) -> None:
    """Make scaled pixels anew where pixels that are not given have a part in them.

    The filter's weights at the other pixels are left out and the rest is renormalised. Where that
    leaves little of the bicubic filter, whose weights have both signs, the triangle filter is used.

    Args:
        result: float32 (height, width, channels), scaled from ``native``; it is changed.
        native: float32, the same picture before.
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
