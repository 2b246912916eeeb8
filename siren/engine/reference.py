"""The readable definition of what an engine computes, in plain Jittor operations.

Forward mode carries several *streams* through the network at once: the value ``u``, its
derivatives along rows and columns, and its Laplacian. A linear layer maps every stream by the same
weights (only the value gets the bias); for the sine, with pre-activation z, s = sin(omega z) and
c = cos(omega z):

    h    = s
    h_i  = omega c z_i                                        i in {row, column}
    h_lap = omega c z_lap - omega^2 s (z_row^2 + z_column^2)

Every engine offers the public functions of this module with the same meaning.
"""

from __future__ import annotations

import jittor as jt

# How many streams each order carries: value; value and gradient; value, gradient and Laplacian.
STREAMS = (1, 3, 4)


def streams(network, coordinates, order, scale=(1.0, 1.0)):
    """The network and its derivatives at any points, differentiable in the parameters.

    network      a ``Siren`` with two inputs
    coordinates  (N, 2) float32 Var, (row, column)
    order        0, 1 or 2: the highest derivative wanted
    scale        the unit of length along (rows, columns), in coordinates: derivatives come out
                 multiplied by it (``coordinates.spacing`` gives pixel units), the Laplacian as
                 scale_row^2 u_rr + scale_column^2 u_cc

    Returns a list of Vars (N, channels): [u], [u, u_row, u_column] or
    [u, u_row, u_column, laplacian].
    """
    *hidden, output = network.layers
    omega = network.omega_0

    first, *later = hidden
    z = first(coordinates)
    z_row = (first.weight[:, 0] * scale[0]).broadcast(z)
    z_column = (first.weight[:, 1] * scale[1]).broadcast(z)
    z_streams = [z, z_row, z_column, jt.zeros_like(z)][: STREAMS[order]]
    h_streams = _sine(z_streams, omega)
    for layer in later:
        h_streams = _sine(_linear(layer, h_streams), omega)
    return _linear(output, h_streams)


def squared_error(network, coordinates, target, order, scale=(1.0, 1.0), weight=None):
    """Mean squared error of the streams that ``order`` names, as a differentiable scalar Var.

    order 0 supervises the value, 1 the two gradient components, 2 the Laplacian alone.

    target  (N, K, channels) float32 Var with K = 1, 2 or 1 supervised streams
    weight  (N,) float32 Var of one non-negative factor a point, or None for 1

    Returns  sum_n weight_n sum_kc (y_nkc - target_nkc)^2 / (N K channels).
    """
    supervised = {0: slice(0, 1), 1: slice(1, 3), 2: slice(3, 4)}[order]
    predicted = jt.stack(streams(network, coordinates, order, scale)[supervised], dim=1)
    residual = (predicted - target).sqr()
    if weight is not None:
        residual = residual * weight.reshape((-1, 1, 1))
    return residual.mean()


def orthogonalize(matrices):
    """The nearest orthogonal matrix to each of ``matrices`` (count, n, n), roughly, as a Var.

    Muon's Newton-Schulz iterations: five times X <- a X + (b G + c G^2) X with G = X X^T, from
    X = matrix / |matrix|_F. The coefficients take singular values near 1 quickly rather than to 1
    (Jordan et al. 2024).
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    norm = matrices.sqr().sum((1, 2), keepdims=True).sqrt()
    x = matrices / (norm + 1e-7)
    for _ in range(5):
        gram = jt.nn.bmm_transpose(x, x)
        x = a * x + jt.nn.bmm(b * gram + c * jt.nn.bmm(gram, gram), x)
    return x


def _linear(layer, h_streams):
    value, *derivatives = h_streams
    return [layer(value)] + [jt.nn.matmul_transpose(h, layer.weight) for h in derivatives]


def _sine(z_streams, omega):
    z, *derivatives = z_streams
    s = jt.sin(omega * z)
    if not derivatives:
        return [s]
    omega_c = omega * jt.cos(omega * z)
    h_streams = [s] + [omega_c * z_i for z_i in derivatives]
    if len(derivatives) == 3:
        z_row, z_column, _ = derivatives
        h_streams[3] -= omega**2 * s * (z_row.sqr() + z_column.sqr())
    return h_streams
