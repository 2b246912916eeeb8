"""Coordinate grids: where the pixels of an image lie in the square [-1, 1] x [-1, 1]."""

from __future__ import annotations

import numpy as np

FULL_VIEW = (-1.0, -1.0, 1.0, 1.0)  # the crop that is the whole picture


def grid(height: int, width: int) -> np.ndarray:
    """Coordinates of all pixels of a ``height`` x ``width`` image.

    Returns float32 of shape (height * width, 2): (row, column) in [-1, 1], both ends included,
    pixels in row-major order.
    """
    return strip(height, width, 0, height)


def strip(height: int, width: int, first: int, last: int, crop=FULL_VIEW) -> np.ndarray:
    """Coordinates of rows ``first`` to ``last`` - 1 of a ``height`` x ``width`` view of ``crop``.

    ``crop`` is (row_0, column_0, row_1, column_1) in [-1, 1]; its corners are the view's corner
    pixels. Returns float32 ((last - first) * width, 2) in row-major order, as ``grid``.
    """
    row_0, column_0, row_1, column_1 = crop
    rows, columns = np.meshgrid(
        np.linspace(row_0, row_1, height)[first:last],
        np.linspace(column_0, column_1, width),
        indexing="ij",
    )
    return np.stack([rows.ravel(), columns.ravel()], axis=1).astype(np.float32)


def spacing(height: int, width: int) -> tuple[float, float]:
    """Distance between neighbouring pixels along (rows, columns), in coordinates.

    A derivative with respect to coordinates times the spacing is a derivative *in pixel units*.
    ``height`` and ``width`` must be at least 2.
    """
    return 2 / (height - 1), 2 / (width - 1)
