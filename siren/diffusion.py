"""Edge-enhancing diffusion: fills a picture in from some of its pixels, without a network.

The strongest classical method for few and scattered pixels (Weickert 1996; Galić et al. 2008;
Schmaltz et al. 2014). The picture u is the steady state of a diffusion that runs along edges and
hardly across them:

    div(D grad u) = 0 where no pixel is given,    D = g v v^T + (I - v v^T),
    g = 1 / sqrt(1 + contrast^2 / CONTRAST^2)     (Charbonnier et al. 1997)

v, across the edge, is the eigenvector of the larger eigenvalue of u's structure tensor, and that
eigenvalue is the squared contrast. All channels share one D. Borders reflect.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage, sparse

# Chosen on pictures that are not in data/.
CONTRAST = 0.005  # change between two pixels (white - black is 2) from which on an edge is one
SIGMA = 0.7  # pixels; of the Gaussian that smooths the picture before it is differentiated
RHO = 3.0  # pixels; of the Gaussian that averages the products of derivatives
_STEPS = 10  # systems that are solved, each with D of the picture before, on every scale
_ACCURACY = 1e-2  # of the residual of such a system, relative to that of the picture before
_MOST = 500  # iterations for a system


def edge_enhancing_diffusion(picture: np.ndarray, given: np.ndarray) -> np.ndarray:
    """The picture that edge-enhancing diffusion makes of its given pixels.

    Values stay within the range of the given ones. The start is the solution for half the size, at
    which the gaps are half as wide.

    Args:
        picture: (height, width, channels), in [-1, 1] where given, anything elsewhere.
        given: (height, width) booleans, at least one of them True.

    Returns:
        float32 array (height, width, channels); at the given pixels, as float32 `picture`.

    """
    if picture.ndim != 3 or given.shape != picture.shape[:2] or given.dtype != bool:
        raise ValueError(f"of {picture.shape}, {given.shape} are given; not (h, w, c), (h, w) bool")
    if not given.any():
        raise ValueError("no pixel is given")
    return _steady_state(np.where(given[..., None], picture, 0.0), given).astype(np.float32)


def _steady_state(picture, given):
    """``edge_enhancing_diffusion`` in float64 of a picture that is 0 where nothing is given."""
    if given.all():
        return picture
    if max(given.shape) > 8:
        start = _double(_steady_state(*_halve(picture, given)), given.shape)
    else:
        start = np.broadcast_to(picture[given].mean(0), picture.shape)
    field = _diffusion_tensors(start)
    u = np.where(given[..., None], picture, start)
    free = np.flatnonzero(~given)
    for step in range(_STEPS):
        if step:
            field = _diffusion_tensors(u)
        matrix = _stiffness(*field)
        values = u.reshape(given.size, -1)  # a view
        values[free] -= _conjugate_gradients(matrix[free][:, free], (matrix @ values)[free])
    return u


def _halve(picture, given):
    """Means of the given pixels of each block of 2 x 2, and which blocks have one."""
    height, width, _ = picture.shape
    even = (0, height % 2), (0, width % 2)
    count = np.pad(given[..., None].astype(float), (*even, (0, 0)))
    total = np.pad(picture, (*even, (0, 0)))
    count, total = (
        x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2] for x in (count, total)
    )
    return total / np.maximum(count, 1), count[..., 0] > 0


def _double(picture, shape):
    """The inverse of ``_halve``'s size, linear between the blocks' centers."""
    positions = [(np.arange(n) - 0.5) / 2 for n in shape]
    grid = np.meshgrid(*positions, indexing="ij")
    channels = np.moveaxis(picture, 2, 0)
    return np.stack(
        [ndimage.map_coordinates(c, grid, order=1, mode="nearest") for c in channels], 2
    )


def _diffusion_tensors(picture):
    """D of every pixel: its entries (row, row), (row, column), (column, column), each (h, w)."""
    smooth = ndimage.gaussian_filter(picture, (SIGMA, SIGMA, 0))
    rows, columns = (
        ndimage.correlate1d(smooth, [-0.5, 0, 0.5], axis, mode="nearest") for axis in (0, 1)
    )
    a, b, c = (
        ndimage.gaussian_filter((x * y).mean(2), RHO)
        for x, y in ((rows, rows), (rows, columns), (columns, columns))
    )
    half_difference = (a - c) / 2
    radius = np.sqrt(half_difference**2 + b**2) + 1e-20
    g = 1 / np.sqrt(1 + ((a + c) / 2 + radius) / CONTRAST**2)
    mean, half = (g + 1) / 2, (g - 1) / 2
    return (
        mean + half * half_difference / radius,
        half * b / radius,
        mean - half * half_difference / radius,
    )


def _stiffness(a, b, c):
    """The sparse matrix K of the energy u^T K u = sum over the pixels of grad u^T D grad u.

    D = sum of w e e^T with three integer vectors e and w >= 0 (``_selling``), so that the energy is
    a sum of w times squared differences of two pixels; half of it is that with the pixel at e, half
    with that at -e. Without negative weights, a solution has no value beyond the given ones.
    """
    height, width = a.shape
    pixels = np.arange(a.size, dtype=np.int32)
    row, column = np.divmod(pixels, width)
    others, weights = np.empty((a.size, 6), np.int32), np.empty((a.size, 6))
    for k, (weight, (x, y)) in enumerate(zip(*_selling(a.ravel(), b.ravel(), c.ravel()))):
        for side, (r, q) in enumerate(((row + x, column + y), (row - x, column - y))):
            inside = (r >= 0) & (r < height) & (q >= 0) & (q < width)
            others[:, 2 * k + side] = np.where(inside, r * width + q, pixels)
            weights[:, 2 * k + side] = np.where(inside, weight / 2, 0)
    starts = np.arange(0, others.size + 1, 6, dtype=np.int32)
    links = sparse.csr_matrix((weights.ravel(), others.ravel(), starts), (a.size, a.size))
    links = (links + links.T).tocsr()
    return (sparse.diags(np.asarray(links.sum(1)).ravel()) - links).tocsr()


def _selling(a, b, c):
    """Selling's decomposition of n positive definite tensors (Fehrenbach and Mirebeau 2014).

    Returns weights (3, n), not negative, and integer vectors e (3, 2, n) with D = sum of w e e^T.
    """
    weights, vectors = np.empty((3, a.size)), np.empty((3, 2, a.size), np.int32)
    left = np.arange(a.size)
    base = np.broadcast_to(np.int32([[1, 0], [0, 1], [-1, -1]])[..., None], vectors.shape)
    while left.size:
        # The products of the other two vectors under D. Where all are negative, they are obtuse.
        after, before = np.roll(base, -1, 0), np.roll(base, 1, 0)
        cross = after[:, 0] * before[:, 1] + after[:, 1] * before[:, 0]
        products = a * after[:, 0] * before[:, 0] + b * cross + c * after[:, 1] * before[:, 1]
        worst, index = products.argmax(0), np.arange(left.size)
        acute = products[worst, index] > 1e-12
        done = left[~acute]
        weights[:, done] = np.maximum(-products[:, ~acute], 0)
        vectors[:, 0, done], vectors[:, 1, done] = -base[:, 1, ~acute], base[:, 0, ~acute]
        left, a, b, c, worst = left[acute], a[acute], b[acute], c[acute], worst[acute]
        index = np.flatnonzero(acute)
        x, y = after[worst, :, index].T, before[worst, :, index].T
        base = np.stack([-x, y, x - y])
    return weights, vectors


def _conjugate_gradients(matrix, right):
    """x with matrix x = right (n, channels), up to ``_ACCURACY``; the diagonal preconditions."""
    inverse = 1 / matrix.diagonal()[:, None]
    x, residual = np.zeros_like(right), right.copy()
    direction = preconditioned = inverse * residual
    product = np.einsum("nc,nc->c", residual, preconditioned)
    target = _ACCURACY**2 * product
    for _ in range(_MOST):
        if (product <= target).all():
            break
        image = matrix @ direction
        step = product / np.maximum(np.einsum("nc,nc->c", direction, image), 1e-300)
        x += step * direction
        residual -= step * image
        preconditioned = inverse * residual
        before, product = product, np.einsum("nc,nc->c", residual, preconditioned)
        direction = preconditioned + product / np.maximum(before, 1e-300) * direction
    return x
