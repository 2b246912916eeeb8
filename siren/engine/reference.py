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

import math

import jittor as jt

# How many streams each order carries: value; value and gradient; value, gradient and Laplacian.
STREAMS = (1, 3, 4)


def streams(network, coordinates, order, scale=(1.0, 1.0)):
    """The network and its derivatives at any points, differentiable in the parameters.

    network      a ``Siren``, of two inputs where derivatives are wanted
    coordinates  (N, 2) float32 Var, (row, column); (N, inputs) where they are not
    order        0, 1 or 2: the highest derivative wanted
    scale        the unit of length along (rows, columns), in coordinates: derivatives come out
                 multiplied by it (``coordinates.spacing`` gives pixel units), the Laplacian as
                 scale_row^2 u_rr + scale_column^2 u_cc

    Returns a list of Vars (N, channels): [u], [u, u_row, u_column] or
    [u, u_row, u_column, laplacian]. Raises ValueError for other arguments.
    """
    check_points(network, coordinates, order, scale)
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


def squared_error(network, coordinates, target, order, scale=(1.0, 1.0)):
    """Mean squared error of the streams that ``order`` names, as a differentiable scalar Var.

    order 0 supervises the value, 1 the two gradient components, 2 the Laplacian alone.

    target  (N, K, channels) float32 Var with K = 1, 2 or 1 supervised streams

    Returns  sum_nkc (y_nkc - target_nkc)^2 / (N K channels). Raises ValueError for arrays of other
    shapes.
    """
    check_points(network, coordinates, order, scale)
    check_target(network, coordinates, target, order)
    supervised = {0: slice(0, 1), 1: slice(1, 3), 2: slice(3, 4)}[order]
    predicted = jt.stack(streams(network, coordinates, order, scale)[supervised], dim=1)
    return (predicted - target).sqr().mean()


def orthogonalize(matrices):
    """The nearest orthogonal matrix to each of ``matrices`` (count, n, n), roughly, as a Var.

    Muon's Newton-Schulz iterations: five times X <- a X + (b G + c G^2) X with G = X X^T, from
    X = matrix / |matrix|_F. The coefficients take singular values near 1 quickly rather than to 1
    (Jordan et al. 2024). Raises ValueError for what is not square matrices.
    """
    check_matrices(matrices)
    a, b, c = 3.4445, -4.7750, 2.0315
    norm = matrices.sqr().sum((1, 2), keepdims=True).sqrt()
    x = matrices / (norm + 1e-7)
    for _ in range(5):
        gram = jt.nn.bmm_transpose(x, x)
        x = a * x + jt.nn.bmm(b * gram + c * jt.nn.bmm(gram, gram), x)
    return x


# ---- what all engines ask of their arguments --------------------------------------------------


def check_points(network, coordinates, order, scale) -> None:
    """Raise ValueError unless ``streams`` is defined for these arguments."""
    if order not in range(len(STREAMS)):
        raise ValueError(f"order is {order}; it must be 0, 1 or 2")
    inputs = network.widths[0]
    if order > 0 and inputs != 2:
        raise ValueError(f"derivatives are for networks of 2 inputs, and this one has {inputs}")
    _check_array("coordinates", coordinates, (None, inputs))
    if len(scale) != 2 or not all(math.isfinite(unit) for unit in scale):
        raise ValueError(f"scale is {scale}; it must be two finite numbers")


def check_target(network, coordinates, target, order) -> None:
    """Raise ValueError unless the target is of the shape that ``squared_error`` wants."""
    points, supervised = coordinates.shape[0], (1, 2, 1)[order]
    _check_array("target", target, (points, supervised, network.out_features))


def check_matrices(matrices) -> None:
    """Raise ValueError unless these are matrices that ``orthogonalize`` takes."""
    size = matrices.shape[-1] if isinstance(matrices, jt.Var) else None
    _check_array("matrices", matrices, (None, size, size))


def _check_array(name: str, array, shape) -> None:
    """Raise ValueError unless it is a float32 Var of ``shape``, where None is any positive size."""
    wanted = ", ".join("n" if size is None else str(size) for size in shape)
    wanted = f"{name} must be a float32 Var ({wanted})"
    if not isinstance(array, jt.Var):
        raise ValueError(f"{wanted}, not {type(array).__name__}")
    sizes = tuple(array.shape)
    fits = len(sizes) == len(shape) and all(
        size > 0 and wanted_size in (None, size) for size, wanted_size in zip(sizes, shape)
    )
    if str(array.dtype) != "float32" or not fits:
        raise ValueError(f"{wanted}, not {array.dtype} {sizes}")


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
