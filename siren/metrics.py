"""How close two pictures are: PSNR and SSIM, on arrays with values in [-1, 1]."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from siren.pictures import checked_mask

PEAK = 2.0  # from black, -1, to white, 1
_WINDOW = 7  # pixels per side of SSIM's window
_ROWS = 512  # at a time: float64 copies of a whole large picture would not fit into memory


def psnr(image: np.ndarray, reference: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB, 10 log10(4 / mean squared error).

    Args:
        image: any shape, of one axis or more, any real type.
        reference: the same shape.
        mask: (height, width) booleans; only pixels that are True count, in all channels. `image`
            is then (height, width) or (height, width, channels).

    Returns:
        dB; infinity if both are equal, NaN if either has a NaN.

    """
    image, reference = _pair(image, reference)
    if mask is not None:
        mask = checked_mask(mask, "mask", image.shape[:2])
    total, count = 0.0, 0
    for first in range(0, len(image), _ROWS):
        part = slice(first, first + _ROWS)
        difference = np.subtract(image[part], reference[part], dtype=np.float64)
        if mask is not None:
            difference = difference[mask[part]]
        total += float(np.sum(difference**2))
        count += difference.size
    if count == 0:
        raise ValueError("there is no pixel to compare")
    error = total / count
    return math.inf if error == 0 else 10 * math.log10(PEAK**2 / error)


def ssim(image: np.ndarray, reference: np.ndarray, mask: np.ndarray | None = None) -> float | None:
    """Mean structural similarity (Wang, Bovik, Sheikh and Simoncelli 2004) for a peak of 2.

    Means, sample variances and the sample covariance are taken in a uniform window of 7 by 7
    pixels, with K1 = 0.01 and K2 = 0.03, at every pixel whose window lies inside the image; each
    channel counts the same. These are the defaults of scikit-image's `structural_similarity`.

    Args:
        image: (height, width) or (height, width, channels) in [-1, 1], at least 7 by 7 pixels.
        reference: the same shape.
        mask: (height, width) booleans; the mean is over the windows whose center is True.

    Returns:
        at most 1, reached only by equal images; None if the mask leaves no window.

    """
    image, reference = _pair(image, reference)
    if image.ndim not in (2, 3) or min(image.shape[:2]) < _WINDOW:
        raise ValueError(
            f"SSIM needs at least {_WINDOW} x {_WINDOW} pixels, not an array of {image.shape}"
        )
    if mask is not None:
        mask = checked_mask(mask, "mask", image.shape[:2])
    total, count = 0.0, 0
    for first in range(0, len(image) - _WINDOW + 1, _ROWS):
        part = slice(first, first + _ROWS + _WINDOW - 1)
        similarity = _similarity(image[part].astype(np.float64), reference[part].astype(np.float64))
        if mask is not None:
            border = _WINDOW // 2
            similarity = similarity[mask[part][border:-border, border:-border]]
        total += float(np.sum(similarity))
        count += similarity.size
    return total / count if count else None


def _similarity(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """SSIM of every window inside float64 images: (H, W, ...) to (H - 6, W - 6, ...)."""
    factors = [(x, 1), (y, 1), (x, x), (y, y), (x, y)]
    with ThreadPoolExecutor() as pool:
        means = pool.map(lambda pair: _window_mean(pair[0] * pair[1]), factors)
        mean_x, mean_y, mean_xx, mean_yy, mean_xy = means
    count = _WINDOW**2
    unbiased = count / (count - 1)
    variance_x = unbiased * (mean_xx - mean_x**2)
    variance_y = unbiased * (mean_yy - mean_y**2)
    covariance = unbiased * (mean_xy - mean_x * mean_y)

    c1, c2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return luminance * structure


def _pair(image: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    image, reference = np.asarray(image), np.asarray(reference)
    if image.shape != reference.shape:
        raise ValueError(f"shapes differ: {image.shape} and {reference.shape}")
    return image, reference


def _window_mean(image: np.ndarray) -> np.ndarray:
    """Mean over every window inside the image: (H, W, ...) to (H - 6, W - 6, ...)."""
    rows, columns = image.shape[0] - _WINDOW + 1, image.shape[1] - _WINDOW + 1
    image = sum(image[shift : shift + rows] for shift in range(_WINDOW))
    image = sum(image[:, shift : shift + columns] for shift in range(_WINDOW))
    return image / _WINDOW**2
