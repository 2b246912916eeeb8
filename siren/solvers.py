"""Classical methods without a network, for comparison: Poisson solvers and interpolation.

Everything is in pixel units (neighboring pixels have distance 1). The gradient is by forward
differences, zero across the last row and the last column; the divergence is its negative adjoint.
So the divergence of the gradient is exactly the 5-point Laplacian with a reflecting border
(`scipy.ndimage.laplace(image, mode="nearest")`).

SciPy is imported where it is used, here and elsewhere: most runs do not need these 0.3 s.
"""

from __future__ import annotations

import contextlib
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np

INTERPOLATIONS = ("nearest", "linear", "cubic", "thin_plate")
# Points that each thin-plate spline passes through. On a photograph with 5000 points, 32 score
# within 0.01 dB of 64, and of one spline through all points, in half the time.
_NEIGHBORS = 32
_PLACES = 1 << 15  # whose neighbors are in memory at once
_REACH = 8  # pixels; given ones that are farther from all others hardly count, and are not used
_AT_ONCE = 1 << 6  # whose systems of equations fit into a processor's cache
_ACCURACY = 1e-10  # of the residual of a linear system, relative to its right-hand side
_MOST_STEPS = 5000
_FLATTEST = 0.05  # of those points: the least standard deviation across a line, of that along it


class Degenerate(UserWarning):
    """A method could not be used for some or all pixels; the message says what was, instead."""


def solve_poisson(laplacian: np.ndarray) -> np.ndarray:
    """The image of mean zero that has the given 5-point Laplacian.

    The orthonormal DCT-II diagonalizes that Laplacian: its eigenvalue at frequency (j, k) is
    2 cos(πj/height) + 2 cos(πk/width) - 4. At (0, 0) it is zero: a Laplacian does not determine the
    image's mean, and its own mean must be zero. A mean in `laplacian` is ignored.

    Args:
        laplacian: (height, width, channels), in pixel units; channels are independent.

    Returns:
        float32 array (height, width, channels), each channel of mean zero.

    """
    from scipy.fft import dctn, idctn

    laplacian = np.asarray(laplacian, np.float64)
    height, width, _ = laplacian.shape
    spectrum = dctn(laplacian, axes=(0, 1), norm="ortho")
    eigenvalues = -np.add.outer(_eigenvalues(height), _eigenvalues(width))
    eigenvalues[0, 0] = 1
    spectrum[0, 0] = 0
    return idctn(spectrum / eigenvalues[:, :, None], axes=(0, 1), norm="ortho").astype(np.float32)


def match_mean(output: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """``output`` plus a constant per channel, so that it has the mean of ``reference``.

    A gradient or a Laplacian determines a picture up to such a constant. Both are pictures (height,
    width, channels), or some of their pixels (n, channels).
    """
    pixels, wanted = (
        np.ascontiguousarray(array).reshape(-1, array.shape[-1]) for array in (output, reference)
    )
    shift = wanted.mean(0, dtype=np.float64) - pixels.mean(0, dtype=np.float64)
    return (output + shift).astype(np.float32)


def direct_solution(laplacian: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """``solve_poisson``, but with the mean of ``reference``, a picture of the same shape."""
    return match_mean(solve_poisson(laplacian), reference)


def solve_gradient(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The image of mean zero whose gradient is closest to the given field in least squares.

    The normal equations are Poisson's: Laplacian of the image = divergence of the field.

    Args:
        rows: (height, width, channels), differences `image[i + 1] - image[i]`, in pixel units; the
            last row, which has no next one, is ignored.
        columns: the same shape, `image[:, j + 1] - image[:, j]`; the last column is ignored.

    Returns:
        float32 array (height, width, channels), each channel of mean zero.

    """
    return solve_poisson(_divergence(np.asarray(rows, np.float64), np.asarray(columns, np.float64)))


def _divergence(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Backward differences with zeros beyond both borders: the gradient's negative adjoint."""
    divergence = np.zeros_like(rows)
    divergence[:-1] += rows[:-1]
    divergence[1:] -= rows[:-1]
    divergence[:, :-1] += columns[:, :-1]
    divergence[:, 1:] -= columns[:, :-1]
    return divergence


def solve_inside(
    image: np.ndarray, rows: np.ndarray, columns: np.ndarray, region: np.ndarray
) -> np.ndarray:
    """The picture that equals `image` outside of `region`, and inside is closest to a field.

    Poisson image editing (Pérez, Gangnet and Blake 2003, eq. 7): of all pictures with these pixels
    outside, the one whose differences between neighbors with an end in the region are closest to
    the field in least squares. Where the region reaches the border of the picture, it is free.

    Args:
        image: (height, width, channels).
        rows: the same shape, wanted differences `[i + 1] - [i]`; the last row is ignored.
        columns: the same shape, wanted differences `[:, j + 1] - [:, j]`; the last column is
            ignored.
        region: (height, width) booleans, some of them False.

    Returns:
        float32 array (height, width, channels); outside, bit for bit as float32 `image`.

    """
    if region.shape != image.shape[:2] or region.dtype != bool or region.all():
        raise ValueError(f"a region is {image.shape[:2]} booleans, some of them False")
    result = image.astype(np.float32)
    if not region.any():
        return result
    box = tuple(slice(max(0, i.min() - 1), i.max() + 2) for i in np.nonzero(region))
    part, inside = image[box].astype(np.float64), region[box]
    # What the differences of the result have to be, beyond those of the image.
    rows, columns = rows[box].astype(np.float64), columns[box].astype(np.float64)
    rows[:-1] -= np.diff(part, axis=0)
    columns[:, :-1] -= np.diff(part, axis=1)
    divergence = _divergence(rows, columns)
    for channel in range(part.shape[2]):
        part[..., channel] += _solve_dirichlet(-divergence[..., channel], inside)
    result[box][inside] = part[inside]
    return result


def _solve_dirichlet(right: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """u with -Laplacian(u) = `right` at the pixels `inside`, and 0 at the others.

    By conjugate gradients. The Laplacian of the whole rectangle, which a cosine transform inverts,
    preconditions: 40 iterations for a disc, 200 for random pixels.
    """
    from scipy.fft import dctn, idctn

    height, width = right.shape
    eigenvalues = np.add.outer(_eigenvalues(height), _eigenvalues(width))
    eigenvalues += (np.pi / max(height, width)) ** 2  # as if the rectangle had a border of zeros

    def precondition(residual):
        spectrum = dctn(residual, norm="ortho") / eigenvalues
        return idctn(spectrum, norm="ortho") * inside

    residual = right * inside
    solution, target = np.zeros_like(right), _ACCURACY * np.linalg.norm(residual)
    direction, product = np.zeros_like(right), 1.0
    for _ in range(_MOST_STEPS):
        if not np.linalg.norm(residual) > target:
            break
        preconditioned = precondition(residual)
        before, product = product, np.vdot(residual, preconditioned)
        direction = preconditioned + product / before * direction
        image = -_laplacian(direction) * inside
        step = product / np.vdot(direction, image)
        solution += step * direction
        residual -= step * image
    return solution


def _eigenvalues(n: int) -> np.ndarray:
    """Of the negative second difference of n pixels with a reflecting border."""
    return 2 - 2 * np.cos(np.pi * np.arange(n) / n)


def _laplacian(image: np.ndarray) -> np.ndarray:
    """5-point Laplacian (height, width), with a reflecting border."""
    padded = np.pad(image, 1, mode="edge")
    neighbors = padded[2:, 1:-1] + padded[:-2, 1:-1] + padded[1:-1, 2:] + padded[1:-1, :-2]
    return neighbors - 4 * image


def interpolate(picture: np.ndarray, given: np.ndarray, method: str) -> np.ndarray:
    """Fill in a picture from its given pixels by a classical method.

    "linear" and "cubic" (Clough and Tocher's C1 element) use the Delaunay triangulation of the
    given pixels, and the nearest one outside their convex hull. "thin_plate" is, at every pixel,
    the thin-plate spline through the 32 nearest given ones; where these are nearly on one line,
    "linear". With fewer than three given pixels, or all on one line, every method uses the nearest.
    Either is told by a warning, ``Degenerate``.

    Args:
        picture: (height, width, channels); any range where given, anything elsewhere.
        given: (height, width) booleans, at least one of them True.
        method: one of `INTERPOLATIONS`.

    Returns:
        float32 array (height, width, channels), at the given pixels bit for bit as float32
        `picture`; smooth methods may overshoot the values' range.

    """
    from scipy import interpolate as scattered
    from scipy.ndimage import maximum_filter
    from scipy.spatial import Delaunay, QhullError

    if method not in INTERPOLATIONS:
        raise ValueError(f"method must be one of {INTERPOLATIONS}, not {method!r}")
    filled = np.array(picture, np.float32)
    if given.all():
        return filled
    places = np.argwhere(~given).astype(float)
    used = given & maximum_filter(~given, 2 * _REACH + 1)
    positions, values = np.argwhere(used).astype(float), picture[used].astype(float)

    nearest = scattered.NearestNDInterpolator(positions, values)(places)
    smooth = nearest
    if method != "nearest":
        try:
            triangulation = Delaunay(positions)
        except QhullError:
            _warn(f"{method} needs given pixels that are not all on one line; the nearest is taken")
        else:
            smooth = _smooth(method, positions, values, triangulation, places)
    filled[~given] = np.where(np.isnan(smooth), nearest, smooth)  # NaN: outside the convex hull
    return filled


def _smooth(method: str, positions, values, triangulation, places) -> np.ndarray:
    """``interpolate`` for any other method than "nearest"; NaN outside the convex hull."""
    from scipy import interpolate as scattered

    if method == "cubic":
        return scattered.CloughTocher2DInterpolator(triangulation, values)(places)
    linear = scattered.LinearNDInterpolator(triangulation, values)
    if method == "linear":
        return linear(places)
    parts = np.array_split(places, -(-len(places) // _PLACES))
    filled = np.concatenate([_thin_plate(positions, values, part) for part in parts])
    flat = np.isnan(filled[:, 0])
    if flat.any():
        _warn(
            f"the given pixels around {flat.mean():.0%} of the others are nearly on one line, "
            "which leaves thin_plate undetermined; linear is taken there"
        )
        filled[flat] = linear(places[flat])
    return filled


def _thin_plate(positions, values, places) -> np.ndarray:
    """The thin-plate spline through the points nearest to each of ``places`` (n, 2).

    NaN where these are nearly on one line: across it a spline is not determined.
    """
    from scipy.spatial import KDTree

    count = min(_NEIGHBORS, len(positions))
    _, neighbors = KDTree(positions).query(places, count, workers=-1)
    neighbors = neighbors.reshape(len(places), count)
    rows, columns = np.moveaxis(positions[neighbors], 2, 0)
    a, b, c = rows.var(1), columns.var(1), (rows * columns).mean(1) - rows.mean(1) * columns.mean(1)
    spread = np.hypot(a - b, 2 * c)  # the difference of the variances along and across the line
    good = a + b - spread > _FLATTEST**2 * (a + b + spread)

    def splines(part):
        return _splines(positions[neighbors[part]], values[neighbors[part]], places[part])

    filled = np.full((len(places), values.shape[1]), np.nan)
    if good.any():
        parts = np.array_split(np.flatnonzero(good), -(-good.sum() // _AT_ONCE))
        with contextlib.suppress(np.linalg.LinAlgError), ThreadPoolExecutor() as pool:
            filled[good] = np.concatenate(list(pool.map(splines, parts)))
    return filled


def _splines(points, values, places) -> np.ndarray:
    """At each of n ``places`` (n, 2), the thin-plate spline through points (n, m, 2) of its own.

    It is a sum of r² log r, of the distances r to the points, plus a plane; the weights of that sum
    are orthogonal to every plane. ``values`` are (n, m, channels); returns (n, channels).
    """
    center = points.mean(1, keepdims=True)
    scale = abs(points - center).max((1, 2), keepdims=True)
    points, places = (points - center) / scale, (places[:, None] - center) / scale

    def sums(places):  # of 2 r² log r, and the plane: (n, places, m + 3)
        rows, columns = (places[..., None, axis] - points[:, None, :, axis] for axis in (0, 1))
        squares = rows * rows + columns * columns
        waves = squares * np.log(np.maximum(squares, np.finfo(float).tiny))
        return np.concatenate([waves, np.ones((*places.shape[:2], 1)), places], 2)

    n, m, channels = values.shape
    matrix, right = np.zeros((n, m + 3, m + 3)), np.zeros((n, m + 3, channels))
    matrix[:, :m], right[:, :m] = sums(points), values
    matrix[:, m:, :m] = matrix[:, :m, m:].swapaxes(1, 2)
    return (sums(places) @ np.linalg.solve(matrix, right))[:, 0]


def _warn(message: str) -> None:
    warnings.warn(message, Degenerate, stacklevel=4)
