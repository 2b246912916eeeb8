"""The losses of the tasks, by name, and the norms in which a residual is measured.

The points are a ``samples.Batch``. Its targets have K = 1 for pixels and for the Laplacian, and 2
for the gradient (along rows, along columns); derivatives are in pixel units. Every loss is a
differentiable scalar Var.
"""

from __future__ import annotations

import jittor as jt
import numpy as np

from siren import cosine
from siren.operators import Forward, fd_divergence

NORMS = ("operator", "energy", "pixel")


def exact_mean(values):
    """The mean of a float32 Var, a differentiable float32 Var (1,), exact for any number of values.

    Jittor's own adds in one float32: the mean of 2^25 equal numbers comes out as half or less of
    them, and that of the squares of 4096^2 normal numbers 3 % low. In float64 it is as quick.
    """
    return values.float64().mean().float32()


def pixel_mse(network, batch, engine):
    """Mean of |u - target|^2 over points and channels."""
    return engine.squared_error(network, batch, order=0)


def gradient_mse(network, batch, engine, operator, norm):
    """Mean of |grad u - target|^2 (equation 9 of the paper), measured in ``norm``.

    ``operator`` is one of ``siren.operators``, for the grid that the coordinates belong to.
    """
    return _derivative_mse(network, batch, engine, 1, operator, norm)


def laplacian_mse(network, batch, engine, operator, norm):
    """Mean of (Laplacian u - target)^2 (equation 10 of the paper), as ``gradient_mse``."""
    return _derivative_mse(network, batch, engine, 2, operator, norm)


def _derivative_mse(network, batch, engine, order, operator, norm):
    if type(operator) is Forward and norm.pointwise:  # loss and gradient in one pass
        return engine.squared_error(network, batch, order, operator.scale)
    predicted = operator.predict(network, batch.coordinates, order, engine, norm.border)
    return batch.weight * residual_loss(predicted, batch.target, order, operator, norm)


def residual_loss(predicted, target, order: int, operator, norm):
    """The loss, given ``operator.predict`` on the whole grid, or at any points if pointwise."""
    return norm(operator.differentiate(predicted, order) - target)


def residual_and_pixel_loss(predicted, target, order: int, operator, norm):
    """``residual_loss``, plus the mean of |u - pixel|^2 over the pixels that are supervised.

    ``predicted`` ends with the network's values u, and ``target`` with two more: (n, 1, channels)
    pixels, and 1 where these are supervised, 0 elsewhere. Both means are over all pixels.
    """
    values, pixels, supervised = predicted[:, -1], target[:, -2], target[:, -1]
    if not operator.on_grid:
        predicted = predicted[:, :-1]
    loss = residual_loss(predicted, target[:, :-2], order, operator, norm)
    return loss + exact_mean(supervised * (values - pixels).sqr())


class OperatorNorm:
    """The residual r itself: mean of r^2 over all its values.

    On the grid, the error e of the picture solves Laplacian(e) = r, where r is the residual of the
    Laplacian, or the divergence of the residual of the gradient. For the Laplacian, this norm is
    |Laplacian(e)|^2: it weights an error of frequency k by k^4, and almost ignores large shapes.
    """

    pointwise = True
    border = False

    def __call__(self, residual):
        """The norm of a Var (n, K, channels)."""
        return exact_mean(residual.sqr())


class _SpectralNorm:
    """A norm of the error e, computed from the spectrum of its Laplacian on a grid of ``shape``.

    Cosines diagonalize the Laplacian, with a derivative of zero across the border; -w is its
    eigenvalue at each frequency. The norm is the mean of (spectrum / w^power)^2. The mean of e
    (w = 0) is unknown and left out. ``eigenvalues`` are those along rows and along columns.
    """

    pointwise = False

    def __init__(self, shape, power: float, eigenvalues):
        self.shape = shape
        w = np.add.outer(*eigenvalues)
        w[0, 0] = np.inf
        self.weight = _constant(w**-power)

    def _mean_square(self, spectra):
        """The norm, given the spectra (height, width) of the channels."""
        losses = [exact_mean((self.weight * spectrum).sqr()) for spectrum in spectra]
        return sum(losses) / len(losses)


class FiniteNorm(_SpectralNorm):
    """For finite differences: the DCT-II, which diagonalizes the 5-point Laplacian.

    power  1/2 for the energy norm, mean of |gradient(e)|^2; 1 for the pixel norm, mean of e^2
    """

    border = False

    def __init__(self, shape, power: float):
        from scipy.fft import dct

        super().__init__(shape, power, [2 - 2 * np.cos(np.pi * np.arange(n) / n) for n in shape])
        self.rows, self.columns = (_constant(dct(np.eye(n), axis=0, norm="ortho")) for n in shape)

    def __call__(self, residual):
        """The norm of a Var (height * width, K, channels), mean over pixels and channels."""
        pictures = residual.reshape((*self.shape, *residual.shape[1:]))
        components = [pictures[:, :, k] for k in range(residual.shape[1])]
        r = fd_divergence(*components) if len(components) == 2 else components[0]
        return self._mean_square(
            jt.matmul(self.rows, jt.matmul(r[:, :, channel], self.columns.t()))
            for channel in range(r.shape[2])
        )


class ExactNorm(_SpectralNorm):
    """For exact derivatives: the cosines of ``siren.cosine``, with their exact derivatives.

    With a test function v, one of the cosines, Green's first identity says what the coefficient of
    e is, by integrals that the trapezoidal rule takes at the pixels:

        w <v, e> = <grad v, grad e> = -<v, Laplacian(e)> + (v times e's slope across the border)

    So a gradient alone determines e up to its mean. A Laplacian determines it together with its
    slope across the border, which is assumed to be zero, as it is in the cosine interpolant: the
    residual of the Laplacian is (n, 3, channels) and starts with that of the gradient.
    """

    border = True

    def __init__(self, shape, power: float):
        bases = [cosine.make_basis(n) for n in shape]
        super().__init__(shape, power, [b.frequencies**2 for b in bases])
        self.values = [_constant(b.analysis) for b in bases]
        self.slopes = [_constant(b.slope_analysis) for b in bases]
        outward = [np.zeros(n) for n in shape]
        for normal in outward:  # twice, because the rule counts the outermost pixels half
            normal[0], normal[-1] = -2, 2
        self.outward = _constant(outward[0][:, None]), _constant(outward[1][None])

    def __call__(self, residual):
        """The norm of a Var (height * width, 2 or 3, channels), mean over pixels and channels."""
        pictures = residual.reshape((*self.shape, *residual.shape[1:]))
        spectrum = self._of_gradient if residual.shape[1] == 2 else self._of_laplacian
        return self._mean_square(
            spectrum(*(pictures[:, :, k, channel] for k in range(residual.shape[1])))
            for channel in range(residual.shape[2])
        )

    def _of_gradient(self, rows, columns):
        down, across = self.values
        along_rows = jt.matmul(self.slopes[0], jt.matmul(rows, across.t()))
        return along_rows + jt.matmul(down, jt.matmul(columns, self.slopes[1].t()))

    def _of_laplacian(self, rows, columns, laplacian):
        down, across = self.values
        inner = laplacian - self.outward[0] * rows - self.outward[1] * columns
        return jt.matmul(down, jt.matmul(inner, across.t()))


def _constant(array: np.ndarray):
    return jt.array(np.float32(array)).stop_grad()


def make_norm(name: str, operator, shape):
    """The norm called ``name``, one of ``NORMS``, for an ``operator`` on a grid of ``shape``."""
    if name == "operator":
        return OperatorNorm()
    kind = FiniteNorm if operator.on_grid else ExactNorm
    return kind(shape, {"energy": 0.5, "pixel": 1.0}[name])
