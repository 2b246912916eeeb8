"""The cosine interpolant of a picture, and its exact derivatives.

Cosines of the frequencies pi p / (n - 1), p = 0 ... n - 1, interpolate n pixels. They continue the
picture beyond its border by reflection at the centers of the outermost pixels, so that the
derivative across the border is zero there (the DCT of type I). Everything is in pixel units.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Basis(NamedTuple):
    """Cosines on n pixels, orthonormal with ``weights``; everything is float64.

    frequencies  (n,) k_p
    values       (n, n) cosine p at pixel i: values[i, p]
    slopes       (n, n) its derivative there
    weights      (n,) of the trapezoidal rule: 1/2 for the outermost pixels, 1 for the others
    """

    frequencies: np.ndarray
    values: np.ndarray
    slopes: np.ndarray
    weights: np.ndarray

    @property
    def analysis(self) -> np.ndarray:
        """(n, n) matrix that takes pixels to the coefficients of their interpolant."""
        return (self.values * self.weights[:, None]).T

    @property
    def slope_analysis(self) -> np.ndarray:
        """(n, n) matrix that takes a derivative at the pixels to its products with all slopes."""
        return (self.slopes * self.weights[:, None]).T


def make_basis(n: int) -> Basis:
    """The ``Basis`` for n pixels, n at least 2."""
    pixels = np.arange(n)
    frequencies = np.pi * pixels / (n - 1)
    weights = np.ones(n)
    weights[[0, -1]] = 0.5
    factors = np.sqrt(2 * weights / (n - 1))
    angles = np.outer(pixels, frequencies)
    values, slopes = factors * np.cos(angles), -factors * frequencies * np.sin(angles)
    return Basis(frequencies, values, slopes, weights)


def gradient(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradient of the interpolant of ``image`` (height, width, channels): along rows, columns."""
    rows, columns = (make_basis(n) for n in image.shape[:2])
    by_rows, by_columns = rows.slopes @ rows.analysis, columns.slopes @ columns.analysis
    return np.einsum("ij,jkc->ikc", by_rows, image), np.einsum("kj,ijc->ikc", by_columns, image)


def laplacian(image: np.ndarray) -> np.ndarray:
    """Exact Laplacian of the interpolant of ``image`` (height, width, channels)."""
    bases = [make_basis(n) for n in image.shape[:2]]
    by_rows, by_columns = (-(b.values * b.frequencies**2) @ b.analysis for b in bases)
    return np.einsum("ij,jkc->ikc", by_rows, image) + np.einsum("kj,ijc->ikc", by_columns, image)


def solve_gradient(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The picture of mean zero whose interpolant's gradient is closest to a field in least squares.

    Both components are (height, width, channels). The mean is by the trapezoidal rule; what no
    gradient at pixels shows, as the finest checkerboard, is zero too.
    """
    down, across = (make_basis(n) for n in rows.shape[:2])
    product = "pi,qj,ijc->pqc"
    spectrum = np.einsum(product, down.slope_analysis, across.analysis, rows, optimize=True)
    spectrum += np.einsum(product, down.analysis, across.slope_analysis, columns, optimize=True)
    # The finest cosine of an axis has a slope of zero at every pixel.
    eigenvalues = np.add.outer(*(np.append(b.frequencies[:-1] ** 2, 0) for b in (down, across)))
    eigenvalues[eigenvalues == 0] = np.inf
    spectrum /= eigenvalues[:, :, None]
    return np.einsum("ip,jq,pqc->ijc", down.values, across.values, spectrum, optimize=True)
