"""A SIREN in float64 NumPy, written from the formula alone: what the program is checked against.

Its forward mode, ``streams``, is the trial's, which takes complex parameters too; the tests compare
it with ``derivatives``, which knows nothing of the chain rule.
"""

from __future__ import annotations

import numpy as np

from siren.engine.trial import streams


def float64(layers):
    """Pairs of weight and bias in float64."""
    return [(weight.astype(np.float64), bias.astype(np.float64)) for weight, bias in layers]


def layers_of(network):
    """[(weight, bias), ...] of a ``siren.network.Siren``, in float64."""
    return float64(network.split(network.flat.numpy()))


def value(layers, omega_0, x):
    """u at the points ``x`` (N, 2): (N, channels)."""
    h = x
    for weight, bias in layers[:-1]:
        h = np.sin(omega_0 * (h @ weight.T + bias))
    weight, bias = layers[-1]
    return h @ weight.T + bias


def derivatives(layers, omega_0, x, scale=(1.0, 1.0), step=1e-4):
    """[u, u_row, u_column, Laplacian] by fourth-order central differences of ``value``.

    ``scale`` is the unit of length along each axis; relative accuracy about 1e-7.
    """
    u = value(layers, omega_0, x)
    result = [u]
    laplacian = 0
    for axis in (0, 1):
        offset = np.zeros(2)
        offset[axis] = step * scale[axis]
        far_left, left, right, far_right = (
            value(layers, omega_0, x + k * offset) for k in (-2, -1, 1, 2)
        )
        result.append((far_left - 8 * left + 8 * right - far_right) / (12 * step))
        laplacian += (-far_left + 16 * left - 30 * u + 16 * right - far_right) / (12 * step**2)
    return [*result, laplacian]


def squared_error(layers, omega_0, x, target, order, scale=(1.0, 1.0)):
    """Mean squared error of the supervised streams against ``target`` (N, K, channels)."""
    supervised = {0: slice(0, 1), 1: slice(1, 3), 2: slice(3, 4)}[order]
    predicted = np.stack(streams(layers, omega_0, x, scale)[supervised], axis=1)
    return ((predicted - target) ** 2).mean()


def parameter_derivative(loss, layers, depth, kind, direction, step=1e-30):
    """Derivative of ``loss(layers)`` along ``direction`` in one weight (kind 0) or bias (kind 1).

    By a complex step (Squire and Trapp 1998), which is exact to rounding whatever its size.
    """
    moved = [list(layer) for layer in layers]
    moved[depth][kind] = moved[depth][kind] + 1j * step * direction
    return loss(moved).imag / step


def errors_of_gradient(rng, loss, layers, gradient):
    """Of each weight and bias in turn: its part of a gradient, and that part's error.

    ``gradient`` has pairs as ``layers``; the error is that along a random direction of length 1.
    """
    for depth, pair in enumerate(gradient):
        for kind, ours in enumerate(pair):
            direction = rng.normal(size=ours.shape)
            direction /= np.linalg.norm(direction)
            expected = parameter_derivative(loss, layers, depth, kind, direction)
            yield ours, abs((ours * direction).sum() - expected)


def relative_error(actual, expected):
    """Largest absolute difference over the largest expected magnitude."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    return np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-30)
