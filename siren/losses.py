"""The losses of the tasks, by name, and the norms in which a residual is measured.

Coordinates are Vars (n, 2). Targets are Vars (n, K, channels), with K = 1 for pixels and for the
Laplacian, and 2 for the gradient (along rows, along columns); derivatives are in pixel units. Every
loss is a differentiable scalar Var.
"""

from __future__ import annotations

import jittor as jt
import numpy as np
from scipy.fft import dct

from siren.operators import Forward, fd_divergence

NORMS = ("operator", "energy", "pixel")


def pixel_mse(network, coordinates, target, engine):
    """Mean of |u - target|^2 over points and channels."""
    return engine.squared_error(network, coordinates, target, order=0)


def gradient_mse(network, coordinates, target, engine, operator, norm):
    """Mean of |grad u - target|^2 (equation 9 of the paper), measured in ``norm``.

    ``operator`` is one of ``siren.operators``, for the grid that the coordinates belong to.
    """
    return _derivative_mse(network, coordinates, target, engine, 1, operator, norm)


def laplacian_mse(network, coordinates, target, engine, operator, norm):
    """Mean of (Laplacian u - target)^2 (equation 10 of the paper), as ``gradient_mse``."""
    return _derivative_mse(network, coordinates, target, engine, 2, operator, norm)


def _derivative_mse(network, coordinates, target, engine, order, operator, norm):
    if type(operator) is Forward and norm.pointwise:  # loss and gradient in one pass
        return engine.squared_error(network, coordinates, target, order, operator.scale)
    predicted = operator.predict(network, coordinates, order, engine)
    return residual_loss(predicted, target, order, operator, norm)


def residual_loss(predicted, target, order: int, operator, norm):
    """The loss, given ``operator.predict`` on the whole grid, or at any points if pointwise."""
    return norm(operator.differentiate(predicted, order) - target)


def is_pointwise(operator, norm) -> bool:
    """Whether the loss is a mean over points, which any subset of them can estimate."""
    return norm.pointwise and not operator.on_grid


class OperatorNorm:
    """The residual r itself: mean of r^2 over all its values.

    On the grid, the error e of the picture solves Laplacian(e) = r, where r is the residual of the
    Laplacian, or the divergence of the residual of the gradient. For the Laplacian, this norm is
    |Laplacian(e)|^2: it weights an error of frequency k by k^4, and almost ignores large shapes.
    """

    pointwise = True

    def __call__(self, residual):
        """The norm of a Var (n, K, channels)."""
        return residual.sqr().mean()


class _SpectralNorm:
    """A norm of the error e, computed from r by the orthonormal DCT-II on a grid of ``shape``.

    The DCT-II diagonalises the 5-point Laplacian with reflecting border; -w is its eigenvalue at
    each frequency. The norm is the mean of (DCT(r) / w^power)^2. The mean of e (w = 0) is unknown
    and left out.
    """

    pointwise = False

    def __init__(self, shape, power: float):
        self.shape = height, width = shape
        eigenvalues = np.add.outer(
            *(2 - 2 * np.cos(np.pi * np.arange(n) / n) for n in (height, width))
        )
        eigenvalues[0, 0] = np.inf
        self.weight = jt.array(np.float32(eigenvalues**-power)).stop_grad()
        self.rows, self.columns = (
            jt.array(np.float32(dct(np.eye(n), axis=0, norm="ortho"))).stop_grad()
            for n in (height, width)
        )

    def __call__(self, residual):
        """The norm of a Var (height * width, K, channels), mean over pixels and channels."""
        components = [
            residual[:, k].reshape((*self.shape, residual.shape[2]))
            for k in range(residual.shape[1])
        ]
        r = fd_divergence(*components) if len(components) == 2 else components[0]
        losses = []
        for channel in range(r.shape[2]):
            spectrum = jt.matmul(self.rows, jt.matmul(r[:, :, channel], self.columns.t()))
            losses.append((self.weight * spectrum).sqr().mean())
        return sum(losses) / len(losses)


class EnergyNorm(_SpectralNorm):
    """Mean of |gradient(e)|^2 = sum DCT(r)^2 / w."""

    def __init__(self, shape):
        super().__init__(shape, 0.5)


class PixelNorm(_SpectralNorm):
    """Mean of e^2 = sum DCT(r)^2 / w^2, the squared error of the pixels themselves."""

    def __init__(self, shape):
        super().__init__(shape, 1.0)


def make_norm(name: str, shape):
    """The norm called ``name``, one of ``NORMS``, on a grid of ``shape`` (height, width)."""
    if name == "operator":
        return OperatorNorm()
    return {"energy": EnergyNorm, "pixel": PixelNorm}[name](shape)
