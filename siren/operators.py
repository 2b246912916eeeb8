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

from siren.coordinates import spacing

OPERATORS = ("forward", "autograd", "fd")


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


# ---- the loss of the derivative tasks -------------------------------------------------------


def squared_error(network, coordinates, target, order, shape, operator, engine):
    """Mean squared error of the network's gradient (order 1) or Laplacian (order 2) on a grid.

    coordinates  (height * width, 2) Var, the grid of ``shape`` (height, width)
    target       (height * width, K, channels) Var in pixel units; K = 2 for the gradient
                 (along rows, along columns), 1 for the Laplacian
    operator     one of ``OPERATORS``
    engine       module that evaluates the network (``siren.engine``)

    Returns a differentiable scalar Var.
    """
    scale = spacing(*shape)
    if operator == "forward":
        return engine.squared_error(network, coordinates, target, order, scale)
    if operator == "autograd":
        points = coordinates.clone().start_grad()
        derivative = {1: autograd_gradient, 2: autograd_laplacian}[order]
        predicted = derivative(network, points, scale)
    else:
        (values,) = engine.streams(network, coordinates, 0)
        image = values.reshape((*shape, -1))
        derivative = {1: fd_gradient, 2: fd_laplacian}[order]
        predicted = derivative(image)
    components = predicted if order == 1 else [predicted]
    channels = target.shape[2]
    predicted = jt.stack([component.reshape((-1, channels)) for component in components], dim=1)
    return (predicted - target).sqr().mean()
