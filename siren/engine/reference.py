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

from typing import NamedTuple

import jittor as jt
import numpy as np

from siren.losses import exact_mean

# How many streams each order carries: value; value and gradient; value, gradient and Laplacian.
STREAMS = (1, 3, 4)

FLOAT32 = jt.NanoString("float32")  # a type is compared with this sooner than with a string

# The polynomials a s + b s^3 + c s^5 that `orthogonalize` applies to singular values one after the
# other. Each is the best approximation of 1 on the interval into which its
# predecessors take [l, 1]: the first on [l, 1], the next on [1 - e, 1 + e] with the error e of the
# first, and so on. No other composition of as many has a smaller error on [l, 1] (Amsel et al.
# 2025, "The Polar Express", arXiv:2505.16932). As there, all but the last are given s / 1.01, which
# leaves room for rounding. tests/engine/test_muon.py derives these coefficients.
POLYNOMIALS = (  # from [0.01, 1] into [0.71, 1.28]
    (8.013236, -22.925757, 16.599415),
    (3.600580, -2.641875, 0.510505),
    (2.661300, -1.977155, 0.452616),
)


class AdamNumbers(NamedTuple):
    """What a step of Adam needs to know."""

    rate: float  # learning rate, divided by the bias correction of the mean
    correction: float  # square root of the bias correction of the mean square
    beta_1: float
    beta_2: float
    eps: float


class MuonNumbers(NamedTuple):
    """What a step of Muon needs to know: learning rate and momentum of the hidden matrices."""

    matrix_rate: float
    momentum: float


def streams(network, coordinates, order, scale=(1.0, 1.0)):
    """The network and its derivatives at any points, differentiable in the parameters.

    network      a ``Siren``, of two inputs where derivatives are wanted
    coordinates  (N, 2) float32 Var, (row, column); (N, inputs) where they are not
    order        0, 1 or 2: the highest derivative wanted
    scale        the unit of length along (rows, columns), in coordinates: derivatives come out
                 multiplied by it (``samples.spacing`` gives pixel units), the Laplacian as
                 scale_row^2 u_rr + scale_column^2 u_cc

    Returns a list of Vars (N, channels): [u], [u, u_row, u_column] or
    [u, u_row, u_column, laplacian]. Raises ValueError for other arguments.
    """
    check_order(network, order)
    check_array("coordinates", coordinates, (None, network.widths[0]))
    *hidden, output = network.layers
    omega = network.omega_0

    first, *later = hidden
    z_streams = [first(coordinates)]
    if order > 0:
        z = z_streams[0]
        z_streams += [(first.weight[:, axis] * scale[axis]).broadcast(z) for axis in (0, 1)]
    if order == 2:
        z_streams.append(jt.zeros_like(z))
    h_streams = _sine(z_streams, omega)
    for layer in later:
        h_streams = _sine(_linear(layer, h_streams), omega)
    return _linear(output, h_streams)


def squared_error(network, batch, order, scale=(1.0, 1.0), compute_streams=streams):
    """Mean squared error of the streams that ``order`` names, as a differentiable scalar Var.

    order 0 supervises the value, 1 the two gradient components, 2 the Laplacian alone.

    batch            a ``samples.Batch`` with K = 1, 2 or 1 supervised streams
    compute_streams  ``streams`` of an engine

    Returns  weight sum_nkc (y_nkc - target_nkc)^2 / (N K channels). Raises ValueError for arrays of
    other shapes.
    """
    computed = compute_streams(network, batch.coordinates, order, scale)
    check_target(network, batch.coordinates, batch.target, order)
    supervised = {0: slice(0, 1), 1: slice(1, 3), 2: slice(3, 4)}[order]
    error = jt.stack(computed[supervised], dim=1) - batch.target
    return batch.weight * exact_mean(error.sqr())


def variation(
    network, points, field, smallest, weight, scale=(1.0, 1.0), plus=None, compute_streams=streams
):
    """``weight`` times the mean over points of sqrt(grad u^T D grad u + smallest^2), a scalar Var.

    points    a ``samples.RandomPoints``
    field     (height, width, 3) float32 Var: the entries (row, row), (row, column) and (column,
              column) of the symmetric matrix D of each pixel; a point has that of the nearest one.
              grad u^T D grad u is the mean over channels
    smallest  where the root is rounded off, so that it has a gradient at 0
    plus      a loss to add, or None
    compute_streams  ``streams`` of an engine

    It is differentiable in the parameters. Raises ValueError for arrays of other shapes.
    """
    check_array("field", field, (None, None, 3))
    coordinates = points.coordinates()
    height, width, _ = field.shape
    last = np.float32([height - 1, width - 1])
    rows, columns = np.rint((coordinates + 1) / 2 * last).astype(np.int32).T
    pixels = jt.array(rows * np.int32(width) + columns)
    # Indexing would make the host wait for a GPU.
    tensors, shape = field.reshape((-1, 3)), (len(coordinates), 3)
    tensors = tensors.reindex(shape, ["@e0(i0)", "i1"], extras=[pixels]).stop_grad()
    dd, de, ee = (tensors[:, k : k + 1] for k in range(3))
    _, u_row, u_column = compute_streams(network, jt.array(coordinates).stop_grad(), 1, scale)
    energy = dd * u_row.sqr() + 2 * de * u_row * u_column + ee * u_column.sqr()
    total = weight * exact_mean((energy.mean(1) + smallest**2).sqrt())
    return total if plus is None else plus + total


def gradient(loss, network):
    """The gradient of ``loss``, a scalar Var, in all parameters: a Var like ``network.flat``."""
    return jt.grad(loss, [network.flat])[0]


def gather(points, selection, weight=1.0):
    """The ``samples.Batch`` of ``selection``, a ``samples.Selection``, with that weight.

    ``points`` is a ``samples.DevicePoints``.
    """
    return points.gather(selection.indices())._replace(weight=weight)


def orthogonalize(matrices):
    """The nearest orthogonal matrix to each of ``matrices`` (count, n, n), roughly, as a Var.

    If U diag(s) V^T is a matrix divided by its Schatten-8 norm, the result is U diag(f(s)) V^T,
    where f is the composition of ``POLYNOMIALS``. With Newton-Schulz iterations
    X <- a X + (b G + c G^2) X, G = X X^T, this takes products of matrices alone (Jordan et al.
    2024). The Schatten-8 norm is the eighth root of the trace of G^4. It is never less than the
    largest singular value, and the first iteration yields it without another product. It is far
    nearer than the Frobenius norm: for random matrices of 256 rows, 1.4 times as large instead of 8
    times, which saves an iteration.

    Matrices of zeros stay so. Raises ValueError for what is not square matrices.
    """
    check_array("matrices", matrices, (None, matrices.shape[-1], matrices.shape[-1]))
    # Each bound of a maximum is below all values, except for zeros.
    x = matrices / jt.maximum(matrices.abs().max((1, 2), keepdims=True), 1e-37)
    x = x / jt.maximum(x.sqr().sum((1, 2), keepdims=True), 1.0).sqrt()
    for iteration, (a, b, c) in enumerate(POLYNOMIALS):
        gram = jt.nn.bmm_transpose(x, x)
        square = jt.nn.bmm(gram, gram)
        if iteration == 0:
            trace = jt.maximum(square.sqr().sum((1, 2), keepdims=True), 1e-24)
            norm = trace.sqrt().sqrt().sqrt()
            x, gram, square = x / norm, gram / norm**2, square / norm**4
        x = a * x + jt.nn.bmm(b * gram + c * square, x)
    return x


def adam(parameters, gradient, mean, square, numbers: AdamNumbers):
    """A step of Adam with bias correction (Kingma and Ba 2015, arXiv:1412.6980).

    All are float32 Vars of one shape: parameters, their gradient, and running means of the gradient
    and its square. Returns the new (parameters, mean, square). Raises ValueError for a gradient of
    another shape.
    """
    check_array("gradient", gradient, parameters.shape)
    rate, correction, beta_1, beta_2, eps = numbers
    mean = beta_1 * mean + (1 - beta_1) * gradient
    square = beta_2 * square + (1 - beta_2) * gradient * gradient
    return parameters - rate * mean / (square.sqrt() / correction + eps), mean, square


def muon(network, gradient, average, mean, square, adam_numbers, numbers: MuonNumbers):
    """A step of Muon on the hidden matrices of a ``Siren``, and of Adam on all other parameters.

    A hidden matrix moves by its orthogonalized momentum, in Nesterov's form (Jordan et al. 2024,
    "Muon: an optimizer for hidden layers in neural networks").

    gradient      float32 Var of the shape of ``network.flat``
    average       (count, n, n) momentum of the hidden matrices, in their order
    mean, square  (others,) Adam's moments of the other parameters, in their order

    Returns the new (flat, average, mean, square). Raises ValueError for a gradient of another
    shape.
    """
    check_array("gradient", gradient, network.flat.shape)
    matrices, others = _split(network, network.flat)
    matrix_gradient, other_gradient = _split(network, gradient)
    average = numbers.momentum * average + matrix_gradient
    direction = orthogonalize(numbers.momentum * average + matrix_gradient)
    matrices = matrices - numbers.matrix_rate * direction
    others, mean, square = adam(others, other_gradient, mean, square, adam_numbers)
    return _join(network, matrices, others), average, mean, square


def hidden_matrices(network) -> tuple[int, int, int]:
    """Where the hidden matrices are in ``network.flat``: (start, count, n).

    The first begins at ``start``. Each of ``count`` matrices (n, n) is followed by its bias (n,).
    """
    n = network.hidden_features
    return n * (network.widths[0] + 1), network.hidden_layers, n


# ---- what all engines ask of their arguments --------------------------------------------------


def check_order(network, order) -> None:
    """Raise ValueError unless there are such derivatives of the network."""
    if order not in range(len(STREAMS)):
        raise ValueError(f"order is {order}; it must be 0, 1 or 2")
    inputs = network.widths[0]
    if order > 0 and inputs != 2:
        raise ValueError(f"derivatives are for networks of 2 inputs, and this one has {inputs}")


def check_target(network, coordinates, target, order) -> None:
    """Raise ValueError unless the target is of the shape that ``squared_error`` wants."""
    check_array("target", target, (coordinates.shape[0], *target_shape(network, order)))


def target_shape(network, order) -> tuple[int, int]:
    """(K, channels) of each target of ``squared_error``."""
    return (1, 2, 1)[order], network.out_features


def check_array(name: str, array, shape) -> None:
    """Raise ValueError unless it is a float32 Var of ``shape``, where None is any positive size."""
    is_var = isinstance(array, jt.Var)
    if is_var and array.dtype == FLOAT32 and _fits(array.shape, shape):
        return
    wanted = ", ".join("n" if size is None else str(size) for size in shape)
    found = f"{array.dtype} {tuple(array.shape)}" if is_var else type(array).__name__
    raise ValueError(f"{name} must be a float32 Var ({wanted}), not {found}")


def _fits(sizes, shape) -> bool:
    if None not in shape:
        return sizes == shape
    if len(sizes) != len(shape) or 0 in sizes:
        return False
    return all(wanted in (None, size) for size, wanted in zip(sizes, shape))


def _split(network, flat):
    """The hidden matrices (count, n, n) and all other parameters (others,) of ``flat``."""
    start, count, n = hidden_matrices(network)
    stop = start + count * (n * n + n)
    layers = flat[start:stop].reshape((count, n * n + n))
    matrices = layers[:, : n * n].reshape((count, n, n))
    biases = layers[:, n * n :].reshape((count * n,))
    return matrices, jt.concat([flat[:start], biases, flat[stop:]], dim=0)


def _join(network, matrices, others):
    """The inverse of ``_split``."""
    start, count, n = hidden_matrices(network)
    biases = others[start : start + count * n].reshape((count, n))
    layers = jt.concat([matrices.reshape((count, n * n)), biases], dim=1).reshape((-1,))
    return jt.concat([others[:start], layers, others[start + count * n :]], dim=0)


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
