"""Edge-enhancing diffusion: fills in a picture from some of its pixels, without a network.

The strongest classical method for few and scattered pixels (Weickert 1996; Galić et al. 2008;
Schmaltz et al. 2014). The picture u is the steady state of a diffusion that runs along edges and
hardly across them: where no pixel is given,

    div(D grad u) = 0,    D = g v v^T + (I - v v^T),    g = 1 / sqrt(1 + contrast^2 / CONTRAST^2)

v, across the edge, is the eigenvector of the larger eigenvalue of u's structure tensor, and that
eigenvalue is the squared contrast (g: Charbonnier et al. 1997). All channels share one D. Borders
reflect.
"""

from __future__ import annotations

from functools import partial

import numpy as np

# Chosen on pictures that are not in data/.
CONTRAST = 0.007  # change between two pixels (white - black is 2) from which on an edge is one
SIGMA = 0.7  # pixels; of the Gaussian that smooths the picture before it is differentiated
RHO = 2.0  # pixels; of the Gaussian that averages the products of derivatives
_STEPS = 3  # on each scale; each solves the equation with D of the picture before
_ACCURACY = 1e-2  # of the residual of such a solution, relative to that of the picture before
_MOST = 500  # iterations for a solution
_TINY = np.finfo(np.float32).tiny


def edge_enhancing_diffusion(picture: np.ndarray, given: np.ndarray) -> np.ndarray:
    """The picture that edge-enhancing diffusion makes of its given pixels.

    Args:
        picture: (height, width, channels), in [-1, 1] where given, anything elsewhere.
        given: (height, width) booleans, at least one of them True.

    Returns:
        float32 array (height, width, channels), of each channel within the range of the given
        values; at the given pixels, bit for bit as float32 `picture`.

    """
    if picture.ndim != 3:
        raise ValueError(f"a picture is (height, width, channels), not {picture.shape}")
    if given.shape != picture.shape[:2] or given.dtype != bool:
        raise ValueError(f"given is {picture.shape[:2]} booleans, not {given.dtype} {given.shape}")
    if not given.any():
        raise ValueError("no pixel is given")
    picture = np.where(given, np.moveaxis(picture, 2, 0), 0).astype(np.float32)
    known = picture[:, given]
    filled = steady_state(picture, given, lambda u: diffusion(*diffusion_tensors(u)))
    filled = filled.clip(known.min(1)[:, None, None], known.max(1)[:, None, None])
    return np.ascontiguousarray(np.moveaxis(filled, 0, 2))


def steady_state(picture: np.ndarray, given: np.ndarray, operator) -> np.ndarray:
    """Where L(u) u = 0 at the pixels not given, L being a linear operator that depends on u.

    It starts from the solution for half the size, in which gaps are half as wide. The smallest
    picture starts from a constant.

    Args:
        picture: float32 (channels, height, width), 0 where not given.
        given: (height, width) booleans, some of them True.
        operator: of u it returns L, a function of pictures, and its diagonal (height, width). L is
            symmetric and positive definite where any pixel is held. For at least 2 x 2 pixels.

    Returns:
        u, as `picture`; at the given pixels, `picture`.

    """
    height, width = given.shape
    if given.all():
        return picture
    if height == 1:
        return steady_state(*(np.repeat(x, 2, -2) for x in (picture, given)), operator)[:, :1]
    if width == 1:
        return steady_state(*(np.repeat(x, 2, -1) for x in (picture, given)), operator)[..., :1]
    if max(height, width) > 8:
        coarse = steady_state(*_halve(picture, given), operator)
        start = _double(coarse)[:, :height, :width]
    else:
        mean = picture[:, given].mean(1)[:, None, None]
        start = np.broadcast_to(mean, picture.shape)
    apply, diagonal = operator(start)
    u = np.where(given, picture, start)
    for step in range(_STEPS):
        if step:
            apply, diagonal = operator(u)
        u -= solve(apply, diagonal, apply(u), ~given)
    return u


def _halve(picture, given):
    """Means of the given pixels of each block of 2 x 2, and which blocks have one."""

    def blocks(x):
        rows = np.add.reduceat(x, range(0, x.shape[-2], 2), -2)
        return np.add.reduceat(rows, range(0, x.shape[-1], 2), -1)

    count = blocks(given.astype(np.float32))
    return blocks(picture) / np.maximum(count, 1), count > 0


def _double(picture):
    """``picture`` (..., height, width) at twice its size, linear between its pixels."""
    for axis in (-2, -1):
        x = np.moveaxis(picture, axis, 0)
        before, after = np.concatenate([x[:1], x[:-1]]), np.concatenate([x[1:], x[-1:]])
        pairs = np.stack([(3 * x + before) / 4, (3 * x + after) / 4], 1)
        picture = np.moveaxis(pairs.reshape(-1, *x.shape[1:]), 0, axis)
    return picture


def diffusion(a, b, c):
    """- div(D grad), as ``steady_state`` takes it; D as ``diffusion_tensors`` returns it."""
    links = _links(a, b, c)
    diagonal = np.zeros((len(a) + 1, len(a[0]) + 1), a.dtype)
    for weight, (here, there) in zip(links, _NEIGHBORS):
        diagonal[here] += weight
        diagonal[there] += weight
    return partial(_apply, links), diagonal


def diffusion_tensors(picture, contrast=CONTRAST, sigma=SIGMA, rho=RHO):
    """D of every cell of 2 x 2 pixels of ``picture`` (channels, height, width).

    Its entries (row, row), (row, column) and (column, column), each (height - 1, width - 1).
    """
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(picture, (0, sigma, sigma))
    return slack_across_edges(*cell_gradient(smooth), contrast, rho)


def cell_gradient(picture):
    """Mean differences along rows and along columns of every cell of 2 x 2 pixels, as above."""
    rows, columns = np.diff(picture, axis=1), np.diff(picture, axis=2)
    return (rows[..., 1:] + rows[..., :-1]) / 2, (columns[:, 1:] + columns[:, :-1]) / 2


def slack_across_edges(rows, columns, contrast, rho):
    """Entries of D (height, width), from the gradient of each channel (channels, height, width)."""
    from scipy.ndimage import gaussian_filter

    a, b, c = (  # the structure tensor
        gaussian_filter(product.mean(0), rho)
        for product in (rows * rows, rows * columns, columns * columns)
    )
    half_difference = (a - c) / 2
    radius = np.sqrt(half_difference**2 + b**2) + np.float32(1e-20)
    g = 1 / np.sqrt(1 + ((a + c) / 2 + radius) / contrast**2)  # of the larger eigenvalue
    # v v^T = I/2 + [[cos, sin], [sin, -cos]]/2 of twice the angle of v
    cosine, sine = half_difference / radius, b / radius
    mean, half = (g + 1) / 2, (g - 1) / 2
    return mean + half * cosine, half * sine, mean - half * cosine


# Neighbors of a pixel in a picture (..., height, width); with the opposite ones, all eight.
# (slices of the pixels that have one, slices of the neighbors)
_ALL, _FIRST, _LAST = slice(None), slice(None, -1), slice(1, None)
_NEIGHBORS = (
    ((..., _FIRST, _ALL), (..., _LAST, _ALL)),  # below
    ((..., _ALL, _FIRST), (..., _ALL, _LAST)),  # to the right
    ((..., _FIRST, _FIRST), (..., _LAST, _LAST)),
    ((..., _FIRST, _LAST), (..., _LAST, _FIRST)),
)


def _links(a, b, c):
    """Weights w of the links to ``_NEIGHBORS``: the sum of w (difference)^2 is the energy

        sum over the cells of  a r^2 + 2 b r q + c q^2 + k s^2

    r and q are a cell's mean differences along rows and columns, s half the difference of the sums
    of its diagonals, without which a chessboard would cost nothing. No weight along an axis is
    negative if k >= |a - c|, none along a diagonal if k <= a + c - 2 |b|. k is halfway, and
    positive; where D is so oblique that these two exclude each other, weights can be negative, but
    the energy cannot.
    """
    k = (abs(a - c) + a + c) / 2 - abs(b)
    down, right = (k + a - c) / 4, (k - a + c) / 4
    # A link along an axis belongs to the cells on both sides.
    down = np.pad(down, ((0, 0), (0, 1))) + np.pad(down, ((0, 0), (1, 0)))
    right = np.pad(right, ((0, 1), (0, 0))) + np.pad(right, ((1, 0), (0, 0)))
    return down, right, (a + c - k) / 4 + b / 2, (a + c - k) / 4 - b / 2


def _apply(links, u):
    """Half the gradient of the energy at u (channels, height, width)."""
    result = np.zeros_like(u)
    for weight, (here, there) in zip(links, _NEIGHBORS):
        flux = u[here] - u[there]
        flux *= weight
        result[here] += flux
        result[there] -= flux
    return result


def solve(apply, diagonal: np.ndarray, right: np.ndarray, free: np.ndarray) -> np.ndarray:
    """x with `apply(x)` = `right` where `free`, and 0 elsewhere; up to ``_ACCURACY``.

    By conjugate gradients, for each channel of `right` (channels, height, width); the diagonal of
    the operator `apply` preconditions.
    """
    inverse = free / diagonal
    x, residual = np.zeros_like(right), right.copy()
    direction = inverse * residual
    product = _dot(residual, direction)
    target = _ACCURACY**2 * product
    for _ in range(_MOST):
        if (product <= target).all():
            break
        image = apply(direction)
        step = product / np.maximum(_dot(direction, image), _TINY)
        x += step * direction
        residual -= step * image
        preconditioned = inverse * residual
        before, product = product, _dot(residual, preconditioned)
        direction *= product / np.maximum(before, _TINY)
        direction += preconditioned
    return x


def _dot(x, y):
    """The product of each channel, (channels, 1, 1)."""
    return np.einsum("crq,crq->c", x, y)[:, None, None]
