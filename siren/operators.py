"""Gradient, divergence and Laplacian, by three methods.

- *fd*: finite differences on a pixel grid, in pixel units; for NumPy images, and differentiable for
  Jittor Vars;
- *autograd*: ``jittor.grad`` of the network, nested for the Laplacian;
- *forward*: forward mode through the network (``siren.engine``): the same values as autograd,
  several times faster.

All of them work channel by channel. Tasks use ``Forward``, ``Autograd`` and ``FiniteDifferences``,
which have one interface (``make_operator``).
"""

from __future__ import annotations

import jittor as jt
import numpy as np

from siren.samples import spacing

# ---- finite differences on images -----------------------------------------------------------


def fd_gradient(image):
    """Forward differences of an image (height, width, channels), a NumPy array or a Var.

    Returns (along rows, along columns), each of the image's shape. They are zero on the last row
    and the last column, respectively: the border reflects (Neumann condition).
    """
    rows = image[1:] - image[:-1]
    columns = image[:, 1:] - image[:, :-1]
    return _concatenate([rows, 0 * image[:1]], 0), _concatenate([columns, 0 * image[:, :1]], 1)


def fd_divergence(rows, columns):
    """Divergence of a field with components (height, width, channels): backward differences.

    It is the negative adjoint of ``fd_gradient``, and the divergence of the gradient is
    ``fd_laplacian``. The last row of ``rows`` and the last column of ``columns`` count as zero.
    """
    along_rows = _concatenate([rows[:1], rows[1:-1] - rows[:-2], -rows[-2:-1]], 0)
    along_columns = _concatenate(
        [columns[:, :1], columns[:, 1:-1] - columns[:, :-2], -columns[:, -2:-1]], 1
    )
    return along_rows + along_columns


def fd_laplacian(image):
    """5-point Laplacian of an image (height, width, channels) with reflecting border."""
    return fd_divergence(*fd_gradient(image))


def sobel_gradient(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sobel gradient of a NumPy image (height, width, channels), in pixel units (divided by 8).

    It is the gradient target of the paper's published code. Returns (along rows, along columns).
    """
    from scipy import ndimage

    difference, average = [-1 / 2, 0, 1 / 2], [1 / 4, 1 / 2, 1 / 4]
    rows, columns = (
        ndimage.correlate1d(
            ndimage.correlate1d(image, difference, axis=axis, mode="nearest"),
            average,
            axis=1 - axis,  # ndimage.sobel would average over the channels too
            mode="nearest",
        )
        for axis in (0, 1)
    )
    return rows, columns


def _concatenate(parts, axis):
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts, axis)
    return jt.concat(parts, axis)


# ---- derivatives of the network -------------------------------------------------------------


def autograd_gradient(network, coordinates, scale=(1.0, 1.0)):
    """Gradient of a network (or any function of a Var) at ``coordinates`` (N, 2), by ``jt.grad``.

    Returns (along rows, along columns), each (N, channels), multiplied by ``scale``. The gradient
    of ``coordinates`` must not be stopped.
    """
    values = network(coordinates)
    per_channel = [
        jt.grad(values[:, channel].sum(), coordinates) for channel in range(values.shape[1])
    ]
    return tuple(
        jt.stack([gradient[:, axis] for gradient in per_channel], dim=1) * scale[axis]
        for axis in (0, 1)
    )


def autograd_divergence(rows, columns, coordinates, scale=(1.0, 1.0)):
    """Divergence of a field (rows, columns), each (N, channels), a function of ``coordinates``."""
    return jt.stack(
        [
            sum(
                jt.grad(component[:, channel].sum(), coordinates)[:, axis] * scale[axis]
                for axis, component in enumerate((rows, columns))
            )
            for channel in range(rows.shape[1])
        ],
        dim=1,
    )


# ---- operators on a grid ---------------------------------------------------------------------


class Forward:
    """Exact derivatives in pixel units, by the engine's forward mode.

    shape  (height, width) of the grid, whose spacing is the unit of length
    """

    on_grid = False  # works at any points

    def __init__(self, shape):
        self.scale = spacing(*shape)

    def predict(self, network, coordinates, order, engine, border=False, values=False):
        """Gradient (order 1) or Laplacian (2) at ``coordinates``: a Var (n, 2 or 1, channels).

        With ``border`` the gradient comes before the Laplacian: (n, 3, channels). With ``values``
        the network's values come last, one more.
        """
        streams = engine.streams(network, coordinates, order, self.scale)
        wanted = streams[1:] if order == 1 or border else streams[3:]
        return jt.stack([*wanted, streams[0]] if values else wanted, dim=1)

    def differentiate(self, predicted, order: int):
        """``predicted`` itself, which is the derivative already."""
        return predicted


class Autograd(Forward):
    """As ``Forward``, by ``jittor.grad``."""

    def predict(self, network, coordinates, order, engine, border=False, values=False):
        """As ``Forward.predict``."""
        points = coordinates.clone().start_grad()
        wanted = gradient = list(autograd_gradient(network, points, self.scale))
        if order == 2:
            laplacian = [autograd_divergence(*gradient, points, self.scale)]
            wanted = gradient + laplacian if border else laplacian
        return jt.stack([*wanted, network(points)] if values else wanted, dim=1)


class FiniteDifferences:
    """Finite differences of the network's values on the whole grid of ``shape``, in pixel units."""

    on_grid = True  # needs the values at all points

    def __init__(self, shape):
        self.shape = shape

    def predict(self, network, coordinates, order, engine, border=False, values=False):
        """The network's values (n, 1, channels), which ``differentiate`` takes."""
        return jt.stack(engine.streams(network, coordinates, 0), dim=1)

    def differentiate(self, predicted, order: int):
        """Gradient or Laplacian (height * width, 2 or 1, channels) of values on the whole grid."""
        channels = predicted.shape[2]
        values = predicted.reshape((*self.shape, channels))
        components = fd_gradient(values) if order == 1 else [fd_laplacian(values)]
        return jt.stack([c.reshape((-1, channels)) for c in components], dim=1)


OPERATORS = {"forward": Forward, "autograd": Autograd, "fd": FiniteDifferences}


def make_operator(name: str, shape) -> Forward | FiniteDifferences:
    """The operator called ``name``, one of ``OPERATORS``, for a grid of ``shape``."""
    return OPERATORS[name](shape)
