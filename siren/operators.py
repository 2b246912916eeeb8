"""Gradient, divergence and Laplacian, three ways.

- *fd*: finite differences on a pixel grid, in pixel units; for NumPy images and, to train through
  them, for Jittor Vars;
- *autograd*: ``jittor.grad`` of the network, nested for the Laplacian;
- *forward*: derivatives carried forward through the network (``siren.engine``), the same numbers
  several times cheaper.

All of them work channel by channel. ``squared_error`` is the loss that the tasks train on.
"""

from __future__ import annotations

import jittor as jt
import numpy as np
from scipy import ndimage
from scipy.fft import dct

from siren.coordinates import spacing

OPERATORS = ("forward", "autograd", "fd")
NORMS = ("operator", "energy", "pixel")


# ---- finite differences on images -----------------------------------------------------------


def fd_gradient(image):
    """Forward differences of an image (height, width, channels), a NumPy array or a Var.

    Returns (along rows, along columns), each of the image's shape, zero on the last row or column:
    the border reflects (Neumann condition).
    """
    rows = image[1:] - image[:-1]
    columns = image[:, 1:] - image[:, :-1]
    return _concatenate([rows, 0 * image[:1]], 0), _concatenate([columns, 0 * image[:, :1]], 1)


def fd_divergence(rows, columns):
    """Divergence of a field with components (height, width, channels): backward differences.

    It is the negative adjoint of ``fd_gradient``, so that the two make ``fd_laplacian``. The last
    row of ``rows`` and the last column of ``columns`` lie outside the image and count as zero.
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
    """Sobel gradient of a NumPy image (height, width, channels), divided by 8: in pixel units.

    This is the gradient target of the paper's published code. Returns (along rows, along columns).
    """
    difference, average = [-1 / 2, 0, 1 / 2], [1 / 4, 1 / 2, 1 / 4]
    rows, columns = (
        ndimage.correlate1d(
            ndimage.correlate1d(image, difference, axis=axis, mode="nearest"),
            average,
            axis=1 - axis,  # not along the channels, as ndimage.sobel would
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

    Returns (along rows, along columns), each (N, channels), times ``scale``. The coordinates must
    not have their gradient stopped.
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
    """Divergence of a field (rows, columns), each (N, channels), computed from ``coordinates``."""
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


def autograd_laplacian(network, coordinates, scale=(1.0, 1.0)):
    """Laplacian of a network at ``coordinates`` (N, 2): the divergence of its gradient."""
    rows, columns = autograd_gradient(network, coordinates, scale)
    return autograd_divergence(rows, columns, coordinates, scale)


def forward_gradient(network, coordinates, engine, scale=(1.0, 1.0)):
    """Gradient of a ``Siren`` in forward mode: (along rows, along columns), each (N, channels)."""
    _, rows, columns = engine.streams(network, coordinates, 1, scale)
    return rows, columns


def forward_divergence(network, coordinates, engine, scale=(1.0, 1.0)):
    """Divergence of a vector field given by a ``Siren`` with 2 * channels outputs.

    The first half of the outputs are the components along rows, the second half along columns.
    """
    _, rows, columns = engine.streams(network, coordinates, 1, scale)
    channels = rows.shape[1] // 2
    return rows[:, :channels] + columns[:, channels:]


def forward_laplacian(network, coordinates, engine, scale=(1.0, 1.0)):
    """Laplacian of a ``Siren`` in forward mode, (N, channels)."""
    return engine.streams(network, coordinates, 2, scale)[3]


# ---- the losses of the derivative tasks ------------------------------------------------------


class ResidualNorm:
    """How the residual of a derivative on a pixel grid is measured.

    On the grid, the error e of the picture solves Laplacian(e) = r, where r is the residual of the
    Laplacian, or the divergence of that of the gradient. The orthonormal DCT-II diagonalises the
    5-point Laplacian with reflecting border (eigenvalue -w at each frequency), so that from the
    same residual

        operator   |Laplacian(e)|^2 = sum r^2          (gradient: the plain squared residual)
        energy     |gradient(e)|^2  = sum DCT(r)^2 / w
        pixel      |e|^2            = sum DCT(r)^2 / w^2

    are known, the last two up to the mean (w = 0), which carries no information. Plain squared
    error of a Laplacian weighs an error of frequency k by k^4 and so is blind to large shapes.

    shape  (height, width) of the grid
    name   one of ``NORMS``
    """

    def __init__(self, shape, name: str):
        self.name = name
        if name == "operator":
            return
        height, width = shape
        eigenvalues = np.add.outer(
            *(2 - 2 * np.cos(np.pi * np.arange(n) / n) for n in (height, width))
        )
        eigenvalues[0, 0] = np.inf
        power = {"energy": 0.5, "pixel": 1.0}[name]
        self.weight = jt.array(np.float32(eigenvalues**-power)).stop_grad()
        self.rows, self.columns = (
            jt.array(np.float32(dct(np.eye(n), axis=0, norm="ortho"))).stop_grad()
            for n in (height, width)
        )

    def __call__(self, residual):
        """Mean over pixels and channels; ``residual`` is a Var (height, width, channels)."""
        if self.name == "operator":
            return residual.sqr().mean()
        losses = []
        for channel in range(residual.shape[2]):
            spectrum = jt.matmul(self.rows, jt.matmul(residual[:, :, channel], self.columns.t()))
            losses.append((self.weight * spectrum).sqr().mean())
        return sum(losses) / len(losses)


def squared_error(network, coordinates, target, order, shape, operator, engine, norm=None):
    """Mean squared error of the network's gradient (order 1) or Laplacian (order 2) on a grid.

    coordinates  (height * width, 2) Var, the grid of ``shape`` (height, width)
    target       (height * width, K, channels) Var in pixel units; K = 2 for the gradient
                 (along rows, along columns), 1 for the Laplacian
    operator     one of ``OPERATORS``
    engine       module that evaluates the network (``siren.engine``)
    norm         a ``ResidualNorm`` of the grid, or None for the operator norm

    Returns a differentiable scalar Var.
    """
    if operator == "forward" and pointwise(operator, norm):
        return engine.squared_error(network, coordinates, target, order, spacing(*shape))
    predicted = seen(network, coordinates, order, shape, operator, engine)
    return judge(predicted, target, order, shape, operator, norm)


def pointwise(operator: str, norm=None) -> bool:
    """Whether ``squared_error`` is a mean over points, and so can be had of any of them."""
    return operator != "fd" and (norm is None or norm.name == "operator")


def seen(network, coordinates, order, shape, operator, engine):
    """What ``squared_error`` looks at, at any points: a Var (n, streams, channels).

    It is the gradient or the Laplacian, for ``fd`` the values that it will be taken from.
    """
    scale = spacing(*shape)
    if operator == "forward":
        streams = engine.streams(network, coordinates, order, scale)
        streams = streams[1:] if order == 1 else streams[3:]
    elif operator == "autograd":
        points = coordinates.clone().start_grad()
        derivative = {1: autograd_gradient, 2: autograd_laplacian}[order]
        streams = derivative(network, points, scale)
        streams = streams if order == 1 else [streams]
    else:
        streams = engine.streams(network, coordinates, 0)
    return jt.stack(list(streams), dim=1)


def judge(seen, target, order, shape, operator, norm=None):
    """``squared_error``, given what is ``seen`` on the whole grid (any points if pointwise)."""
    channels = target.shape[2]
    predicted = seen
    if operator == "fd":
        derivative = {1: fd_gradient, 2: fd_laplacian}[order]
        components = derivative(seen.reshape((*shape, channels)))
        components = components if order == 1 else [components]
        predicted = jt.stack([c.reshape((-1, channels)) for c in components], dim=1)
    residual = predicted - target
    if norm is None or norm.name == "operator":
        return residual.sqr().mean()
    components = [residual[:, k].reshape((*shape, channels)) for k in range(residual.shape[1])]
    return norm(fd_divergence(*components) if order == 1 else components[0])
