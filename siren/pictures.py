"""Captioned pictures, and pictures of things that are not images: derivatives and errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PERCENTILE = 99.5  # of a derivative's size is drawn at full strength: a few edges outshine the rest


@dataclass(frozen=True)
class Picture:
    """One captioned picture of a report: ``image`` is (height, width, channels) in [-1, 1]."""

    caption: str
    image: np.ndarray


def signed(values: np.ndarray, largest: float | None = None) -> tuple[np.ndarray, float]:
    """Picture of signed ``values`` (height, width, channels): zero is mid-gray.

    Returns (picture in [-1, 1], the size of the values drawn black and white); that is ``largest``,
    or found from the values.
    """
    if largest is None:
        largest = float(np.percentile(np.abs(values), PERCENTILE))
    return np.clip(values / max(largest, 1e-12), -1, 1).astype(np.float32), largest


def magnitude(
    rows: np.ndarray, columns: np.ndarray, largest: float | None = None
) -> tuple[np.ndarray, float]:
    """Picture of a field's magnitude, channel by channel: zero is black.

    Returns (picture (height, width, channels) in [-1, 1], the magnitude drawn white); that is
    ``largest``, or found from the field.
    """
    size = np.hypot(rows, columns)
    if largest is None:
        largest = float(np.percentile(size, PERCENTILE))
    return np.clip(2 * size / max(largest, 1e-12) - 1, -1, 1).astype(np.float32), largest


def absolute_error(output: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, float]:
    """Picture of |output - reference|, mean over channels: zero is black.

    Returns (picture (height, width, 1) in [-1, 1], the error drawn white, which is the largest).
    """
    error = np.abs(output - reference).mean(axis=2, keepdims=True)
    largest = float(error.max())
    return (2 * error / max(largest, 1e-12) - 1).astype(np.float32), largest
