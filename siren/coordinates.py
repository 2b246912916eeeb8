"""Coordinate grids: where the pixels of an image lie in the square [-1, 1] x [-1, 1]."""

from __future__ import annotations

import numpy as np


def grid(height: int, width: int) -> np.ndarray:
    """Coordinates of all pixels of a ``height`` x ``width`` image.

    Returns float32 of shape (height * width, 2): (row, column) in [-1, 1], both ends included,
    pixels in row-major order.
    """
    rows, columns = np.meshgrid(
        np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij"
    )
    return np.stack([rows.ravel(), columns.ravel()], axis=1).astype(np.float32)


def spacing(height: int, width: int) -> tuple[float, float]:
    """Distance of neighbouring pixels along (rows, columns), in coordinates.

    A derivative with respect to coordinates times the spacing is a derivative *in pixel units*.
    Both sides must be at least 2.
    """
    return 2 / (height - 1), 2 / (width - 1)
