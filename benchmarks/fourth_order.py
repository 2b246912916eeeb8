"""Edge-enhancing diffusion of second and fourth order together, for comparison.

To the energy of ``siren.diffusion`` this adds FOURTH times that of the second derivatives, weighted
as the first ones are (Jumakulyyev and Schultz 2020): with the Hessian H and the root E of D,

    sum over the pixels of  tr(E H E H) = g (v^T H v)^2 + 2 sqrt(g) (v^T H w)^2 + (w^T H w)^2

w is along the edge. The result is a spline under tension that is slack across edges.
"""

from __future__ import annotations

import numpy as np

from siren.diffusion import diffusion, diffusion_tensors, steady_state

# Chosen on pictures that are not in data/.
FOURTH = 0.6
CONTRAST, RHO = 0.01, 3.0  # as those of siren.diffusion


def mixed_diffusion(picture: np.ndarray, given: np.ndarray) -> np.ndarray:
    """As ``edge_enhancing_diffusion``; values may overshoot those of the given pixels."""
    picture = np.where(given, np.moveaxis(picture, 2, 0), 0).astype(np.float32)
    return np.moveaxis(steady_state(picture, given, _mixed), 0, 2).clip(-1, 1)


def _mixed(u):
    """The operator of ``steady_state``."""
    tensors = diffusion_tensors(u, CONTRAST, rho=RHO)
    second, diagonal = diffusion(*tensors)
    root = _root(*(_pixels(x) for x in tensors))

    def fourth(x):
        return FOURTH * _hessian_adjoint(*_sandwich(root, *_hessian(x)))

    return lambda x: second(x) + fourth(x), diagonal + _diagonal(fourth, diagonal.shape)


def _pixels(cells):
    """The mean of the cells that meet at each pixel; of two or of one at the border."""
    p = np.pad(cells, 1, mode="edge")
    return (p[1:, 1:] + p[1:, :-1] + p[:-1, 1:] + p[:-1, :-1]) / 4


def _root(a, b, c):
    """The root of the matrices [[a, b], [b, c]], by Cayley and Hamilton."""
    determinant = np.sqrt(a * c - b * b)
    scale = np.sqrt(a + c + 2 * determinant)
    return (a + determinant) / scale, b / scale, (c + determinant) / scale


def _sandwich(root, rr, rc, cc):
    """The entries of E H E."""
    a, b, c = root
    return (
        a * a * rr + 2 * a * b * rc + b * b * cc,
        a * b * rr + (a * c + b * b) * rc + b * c * cc,
        b * b * rr + 2 * b * c * rc + c * c * cc,
    )


def _hessian(u):
    """Second differences (row, row), (row, column), (column, column); 0 where one would leave u."""
    rr, rc, cc = np.zeros((3, *u.shape), u.dtype)
    rr[:, 1:-1] = u[:, 2:] - 2 * u[:, 1:-1] + u[:, :-2]
    cc[..., 1:-1] = u[..., 2:] - 2 * u[..., 1:-1] + u[..., :-2]
    rc[:, 1:-1, 1:-1] = (u[:, 2:, 2:] - u[:, 2:, :-2] - u[:, :-2, 2:] + u[:, :-2, :-2]) / 4
    return rr, rc, cc


def _hessian_adjoint(rr, rc, cc):
    """Half the gradient, by u, of the sum of rr^2 + 2 rc^2 + cc^2."""
    rr, cc, rc = rr[:, 1:-1], cc[..., 1:-1], rc[:, 1:-1, 1:-1] / 2
    u = np.zeros((len(rr), rr.shape[1] + 2, rr.shape[2]), rr.dtype)
    u[:, 2:] += rr
    u[:, 1:-1] -= 2 * rr
    u[:, :-2] += rr
    u[..., 2:] += cc
    u[..., 1:-1] -= 2 * cc
    u[..., :-2] += cc
    u[:, 2:, 2:] += rc
    u[:, :-2, :-2] += rc
    u[:, 2:, :-2] -= rc
    u[:, :-2, 2:] -= rc
    return u


def _diagonal(operator, shape):
    """That of an operator of two pixels' reach, from its values of combs."""
    diagonal = np.zeros((1, *shape), np.float32)
    for row, column in np.ndindex(5, 5):
        comb = np.zeros_like(diagonal)
        comb[:, row::5, column::5] = 1
        diagonal += comb * operator(comb)
    return diagonal[0]
