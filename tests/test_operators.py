import jittor as jt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy_siren import (
    derivatives,
    errors_of_gradient,
    layers_of,
    relative_error,
    squared_error,
    streams,
    value,
)
from scipy import ndimage
from skimage import filters

from siren import losses, operators
from siren.engine import reference
from siren.network import Siren
from siren.samples import Batch, grid, spacing

SHAPE = (7, 11)
shapes = st.tuples(st.integers(2, 12), st.integers(2, 12), st.integers(1, 3))


# ---- finite differences ---------------------------------------------------------------------


def autograd_laplacian(network, coordinates, scale=(1.0, 1.0)):
    rows, columns = operators.autograd_gradient(network, coordinates, scale)
    return operators.autograd_divergence(rows, columns, coordinates, scale)


def smooth(points):
    """A smooth function of (row, column), its gradient and its Laplacian, two channels each."""
    r, c = points[:, :1], points[:, 1:]
    phase = np.array([0.3, 1.1])
    u = np.sin(2 * r + phase) * np.cos(3 * c) + r * c**2
    u_r = 2 * np.cos(2 * r + phase) * np.cos(3 * c) + c**2
    u_c = -3 * np.sin(2 * r + phase) * np.sin(3 * c) + 2 * r * c
    return u, u_r, u_c, -13 * (u - r * c**2) + 2 * r


def test_finite_differences_converge_with_second_order():
    errors = []
    for height, width in ((33, 49), (65, 97), (129, 193)):
        h_r, h_c = spacing(height, width)
        # float32 coordinates would drown the second differences in rounding
        axes = np.linspace(-1, 1, height), np.linspace(-1, 1, width)
        points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
        u, u_r, u_c, laplacian = (stream.reshape(height, width, 2) for stream in smooth(points))
        rows, columns = operators.fd_gradient(u)
        sobel_rows, sobel_columns = operators.sobel_gradient(u)
        only_rows = operators.fd_divergence(rows, 0 * columns)
        only_columns = operators.fd_divergence(0 * rows, columns)
        inner = (slice(1, -1), slice(1, -1))
        errors.append(
            [
                # a forward difference is the derivative half a pixel further on
                np.abs(rows[:-1] / h_r - (u_r[1:] + u_r[:-1]) / 2).max(),
                np.abs(columns[:, :-1] / h_c - (u_c[:, 1:] + u_c[:, :-1]) / 2).max(),
                np.abs(sobel_rows / h_r - u_r)[inner].max(),
                np.abs(sobel_columns / h_c - u_c)[inner].max(),
                np.abs(only_rows / h_r**2 + only_columns / h_c**2 - laplacian)[inner].max(),
            ]
        )
    coarse, middle, fine = np.array(errors)
    orders = np.log2([coarse / middle, middle / fine])
    assert (np.abs(orders - 2) < 0.15).all(), orders


@given(shapes, st.integers(0, 2**31))
def test_fd_laplacian_is_scipys(shape, seed):
    image = np.random.default_rng(seed).normal(size=shape)
    expected = np.stack(
        [ndimage.laplace(image[..., c], mode="nearest") for c in range(shape[2])], axis=2
    )
    np.testing.assert_allclose(operators.fd_laplacian(image), expected, atol=1e-12)


@given(shapes, st.integers(0, 2**31))
def test_divergence_is_the_negative_adjoint_of_the_gradient(shape, seed):
    image, rows, columns = np.random.default_rng(seed).normal(size=(3, *shape))
    du_r, du_c = operators.fd_gradient(image)
    left = (du_r * rows + du_c * columns).sum()
    right = -(image * operators.fd_divergence(rows, columns)).sum()
    assert abs(left - right) < 1e-10 * (1 + abs(left))


@settings(max_examples=5)
@given(shapes, st.integers(0, 2**31))
def test_finite_differences_are_the_same_on_vars(shape, seed):
    image = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    for ours, expected in zip(operators.fd_gradient(jt.array(image)), operators.fd_gradient(image)):
        np.testing.assert_allclose(ours.numpy(), expected, atol=1e-6)
    laplacian = operators.fd_laplacian(jt.array(image)).numpy()
    np.testing.assert_allclose(laplacian, operators.fd_laplacian(image), atol=1e-5)


# ---- the network's derivatives --------------------------------------------------------------


def test_autograd_against_analytic_derivatives():
    points = grid(*SHAPE)
    _, u_r, u_c, laplacian = smooth(points)
    x = jt.array(points)

    def function(x):
        r, c = x[:, :1], x[:, 1:]
        return jt.sin(2 * r + jt.array([0.3, 1.1])) * jt.cos(3 * c) + r * c * c

    rows, columns = operators.autograd_gradient(function, x)
    assert relative_error(rows.numpy(), u_r) < 1e-5
    assert relative_error(columns.numpy(), u_c) < 1e-5
    assert relative_error(autograd_laplacian(function, x).numpy(), laplacian) < 1e-5
    divergence = operators.autograd_divergence(function(x), 2 * function(x), x)
    assert relative_error(divergence.numpy(), u_r + 2 * u_c) < 1e-5


@pytest.mark.parametrize("channels", [1, 3])
def test_forward_and_autograd_agree_with_each_other_and_with_float64(channels):
    network = Siren(out_features=channels, hidden_features=64)
    points = grid(*SHAPE)
    scale = spacing(*SHAPE)
    expected = derivatives(layers_of(network), 30.0, points.astype(np.float64), scale, 1e-3)
    x = jt.array(points)

    u, *gradient, laplacian = reference.streams(network, x, 2, scale)
    for ours, float64 in zip([u, *gradient, laplacian], expected):
        assert ours.shape == (len(points), channels)
        assert relative_error(ours.numpy(), float64) < 1e-4

    by_grad = operators.autograd_gradient(network, x, scale)
    for ours, other in zip(by_grad, gradient):
        assert relative_error(ours.numpy(), other.numpy()) < 1e-5
    by_grad = autograd_laplacian(network, x, scale)
    assert relative_error(by_grad.numpy(), laplacian.numpy()) < 1e-4


@pytest.mark.parametrize("order", [1, 2])
def test_the_operators_of_a_grid_agree(order):
    """On a smooth network, and finite differences inside the border."""
    network = Siren(out_features=2, hidden_features=32, hidden_layers=1, omega_0=4.0)
    shape = (65, 97)
    x = jt.array(grid(*shape))
    found = {}
    for name in operators.OPERATORS:
        operator = operators.make_operator(name, shape)
        predicted = operator.predict(network, x, order, reference)
        assert predicted.shape == (len(x), 1 if name == "fd" else 3 - order, 2)
        found[name] = operator.differentiate(predicted, order).numpy().reshape(*shape, -1)
        assert operator.on_grid == (name == "fd")
    assert relative_error(found["autograd"], found["forward"]) < 1e-4
    inner = (slice(1, -1), slice(1, -1))
    if order == 2:
        assert relative_error(found["fd"][inner], found["forward"][inner]) < 0.02
    else:  # a forward difference is the derivative half a pixel further on
        between = (found["forward"][:-1, :, :2] + found["forward"][1:, :, :2]) / 2
        assert relative_error(found["fd"][:-1, :, :2], between) < 0.02


def test_sobel_is_scikit_images():
    image = np.random.default_rng(0).normal(size=(9, 13, 3))
    rows, columns = operators.sobel_gradient(image)
    for channel in range(3):
        for ours, theirs in ((rows, filters.sobel_h), (columns, filters.sobel_v)):
            # scikit-image's kernel is normalised to a quarter and points the same way
            expected = theirs(image[..., channel]) / 2
            inner = (slice(1, -1), slice(1, -1))
            np.testing.assert_allclose(ours[..., channel][inner], expected[inner], atol=1e-12)


@pytest.mark.parametrize("operator", operators.OPERATORS)
@pytest.mark.parametrize("order", [1, 2])
def test_gradient_of_the_loss_in_the_parameters(operator, order):
    """Against the loss in float64, along one random direction in every weight and bias."""
    rng = np.random.default_rng(order)
    network = Siren(out_features=2, hidden_features=16, hidden_layers=2)
    points = grid(*SHAPE)
    target = rng.normal(size=(len(points), 3 - order, 2))
    layers = layers_of(network)
    scale = spacing(*SHAPE)

    def float64_loss(layers):
        if operator != "fd":
            return squared_error(layers, 30.0, points64, target, order, scale)
        image = value(layers, 30.0, points64).reshape(*SHAPE, 2)
        if order == 1:
            components = operators.fd_gradient(image)
        else:
            components = [operators.fd_laplacian(image)]
        predicted = np.stack([component.reshape(-1, 2) for component in components], axis=1)
        return ((predicted - target) ** 2).mean()

    points64 = points.astype(np.float64)
    mse = losses.gradient_mse if order == 1 else losses.laplacian_mse
    loss = mse(
        network,
        Batch(jt.array(points), jt.array(target.astype(np.float32))),
        reference,
        operators.make_operator(operator, SHAPE),
        losses.OperatorNorm(),
    )
    (gradient,) = jt.grad(loss, [network.flat])
    gradient = gradient.numpy()
    assert abs(loss.item() / float64_loss(layers) - 1) < 1e-4
    # Where the derivative is zero, such as that in a bias, rounding is all there is.
    rounding = 2 * np.finfo(np.float32).eps * np.abs(gradient).max()
    for ours, error in errors_of_gradient(rng, float64_loss, layers, network.split(gradient)):
        assert error < 1e-4 * np.linalg.norm(ours) + rounding


@given(st.integers(0, 2**31))
def test_forward_mode_formula_against_differences(seed):
    """The float64 streams that everything else is checked against."""
    rng = np.random.default_rng(seed)
    widths, omega_0, scale = [2, 5, 4, 3], rng.uniform(1, 10), rng.uniform(0.2, 2, 2)
    layers = [
        (rng.uniform(-1, 1, (b, a)) / omega_0**0.5, rng.uniform(-1, 1, b))
        for a, b in zip(widths, widths[1:])
    ]
    points = rng.uniform(-1, 1, (6, 2))
    exact = derivatives(layers, omega_0, points, scale, step=1e-3)
    for ours, expected in zip(streams(layers, omega_0, points, scale), exact):
        assert relative_error(ours, expected) < 1e-4
