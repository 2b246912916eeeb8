import warnings

import numpy as np
import pytest
from program import ROOT
from scipy.interpolate import RBFInterpolator

from siren.images import read_image
from siren.metrics import psnr
from siren.operators import fd_gradient, fd_laplacian
from siren.solvers import (
    INTERPOLATIONS,
    Degenerate,
    _divergence,
    interpolate,
    solve_gradient,
    solve_poisson,
)

DATA = ROOT / "data"
SHAPES = [(1, 1, 1), (1, 6, 2), (5, 1, 1), (2, 2, 3), (4, 7, 1), (6, 5, 3)]


def noise(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def without_mean(image):
    return image - image.mean((0, 1))


def gradient_matrix(height, width):
    """The dense matrix of `fd_gradient` on a flattened image, column by column."""
    units = np.eye(height * width).reshape(-1, height, width, 1)
    return np.stack([np.ravel(fd_gradient(unit)) for unit in units], 1)


# Poisson and gradient fields


@pytest.mark.parametrize("shape", SHAPES)
def test_divergence_is_the_negative_adjoint_of_the_gradient(shape):
    image, rows, columns = noise(shape), noise(shape, 1), noise(shape, 2)
    left = np.sum(np.array(fd_gradient(image)) * [rows, columns])
    assert left == pytest.approx(-np.sum(image * _divergence(rows, columns)), abs=1e-12)
    divergence = _divergence(*fd_gradient(image))
    np.testing.assert_allclose(divergence, fd_laplacian(image), atol=1e-13)


@pytest.mark.parametrize("shape", SHAPES)
def test_poisson_agrees_with_dense_least_squares(shape):
    # Random right-hand sides have a mean, which no image can cause: least squares ignores it too.
    target = noise(shape, 3)
    matrix = -gradient_matrix(*shape[:2]).T @ gradient_matrix(*shape[:2])
    expected = np.linalg.pinv(matrix, rcond=1e-12) @ target.reshape(-1, shape[2])
    solution = solve_poisson(target)
    assert solution.dtype == np.float32
    np.testing.assert_allclose(solution, expected.reshape(shape), atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_field_agrees_with_dense_least_squares(shape):
    # A random field is no image's gradient.
    field = noise((2, *shape), 4)
    expected, *_ = np.linalg.lstsq(
        gradient_matrix(*shape[:2]), field.reshape(-1, shape[2]), rcond=None
    )
    solution = solve_gradient(*field)
    np.testing.assert_allclose(solution, without_mean(expected.reshape(shape)), atol=1e-5)


def test_gradient_field_ignores_what_no_image_has():
    rows, columns = noise((2, 6, 5, 1), 5)
    solution = solve_gradient(rows, columns)
    rows[-1], columns[:, -1] = 1e6, np.nan
    np.testing.assert_array_equal(solve_gradient(rows, columns), solution)


@pytest.mark.parametrize("name, channels", [("camera.png", 1), ("chelsea.png", 3)])
def test_real_pictures_come_back(name, channels):
    image = read_image(DATA / name, channels).astype(np.float64)
    expected = without_mean(image)
    np.testing.assert_allclose(solve_poisson(fd_laplacian(image)), expected, atol=1e-5)
    np.testing.assert_allclose(solve_gradient(*fd_gradient(image)), expected, atol=1e-5)


# Interpolation


def grid(height, width):
    rows, columns = np.linspace(-1, 1, height), np.linspace(-1, 1, width)
    return np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)


def chosen(height, width, count, corners=True, seed=6):
    """Indices of `count` random pixels, with the corners, so that their hull is the picture."""
    chosen = np.random.default_rng(seed).permutation(height * width)[:count]
    if corners:
        edge = [0, width - 1, (height - 1) * width, height * width - 1]
        chosen = np.union1d(chosen, edge)
    return chosen


@pytest.mark.parametrize("method", INTERPOLATIONS)
@pytest.mark.parametrize("height, width, channels", [(20, 31, 3), (16, 16, 1)])
def test_given_points_are_met(method, height, width, channels):
    image = noise((height, width, channels), 7)
    index = chosen(height, width, 60, corners=False)
    # float32, as the coordinates of a training run are
    points = grid(height, width)[index].astype(np.float32)
    filled = interpolate(points, image.reshape(-1, channels)[index], height, width, method)
    assert filled.shape == image.shape and filled.dtype == np.float32
    given = filled.reshape(-1, channels)[index]
    np.testing.assert_allclose(given, image.reshape(-1, channels)[index], atol=1e-5)


@pytest.mark.parametrize("method", INTERPOLATIONS)
def test_rounding_of_coordinates_changes_nothing(method):
    image = noise((50, 45, 1), 10)
    index = chosen(50, 45, 400, corners=False)
    points, values = grid(50, 45)[index], image.reshape(-1, 1)[index]
    single = interpolate(points.astype(np.float32), values, 50, 45, method)
    np.testing.assert_array_equal(single, interpolate(points, values, 50, 45, method))


@pytest.mark.parametrize("method", ["linear", "cubic", "thin_plate"])
def test_planes_are_reproduced(method):
    height, width = 24, 37
    planes = 0.3 + grid(height, width) @ [[0.5, -0.2], [0.1, 0.4]]
    index = chosen(height, width, 50)
    points = grid(height, width)[index].astype(np.float32)
    filled = interpolate(points, planes[index], height, width, method)
    np.testing.assert_allclose(filled.reshape(-1, 2), planes, atol=1e-5)


def test_nearest_by_brute_force_counts_in_pixels():
    height, width = 8, 40  # in coordinates, a row is five times as far as a column
    points = np.random.default_rng(8).uniform(-1, 1, (30, 2))
    values = noise((30, 2), 9)
    pixels = np.indices((height, width)).reshape(2, -1).T
    offsets = pixels[:, None] - (points + 1) / 2 * [height - 1, width - 1]
    expected = values[np.sum(offsets**2, -1).argmin(1)].reshape(height, width, 2)
    filled = interpolate(points, values, height, width, "nearest")
    np.testing.assert_allclose(filled, expected, atol=1e-6)


@pytest.mark.parametrize("method", ["linear", "cubic"])
def test_nearest_outside_the_hull(method):
    points, values = np.array([[-0.5, -0.5], [-0.5, 0.5], [0.5, 0.0]]), np.array([[1.0], [2], [4]])
    filled = interpolate(points, values, 9, 9, method)[:, :, 0]
    assert filled[0, 0] == 1 and filled[0, 8] == 2 and filled[8, 4] == 4
    assert 1 < filled[4, 4] < 4  # inside


def test_thin_plate_agrees_with_one_spline_through_all_points():
    image = read_image(DATA / "coffee.jpg", 1, (48, 64))
    index = chosen(48, 64, 400)
    points, values = grid(48, 64)[index], image.reshape(-1, 1)[index]
    ours = interpolate(points, values, 48, 64, "thin_plate")
    pixels = np.indices((48, 64)).reshape(2, -1).T.astype(float)
    spline = RBFInterpolator(pixels[index], values, kernel="thin_plate_spline")
    theirs = spline(pixels).reshape(48, 64, 1)
    assert psnr(ours, theirs) > 40
    assert psnr(ours, image) == pytest.approx(psnr(theirs, image), abs=0.1)


def test_on_a_photograph_surfaces_beat_the_nearest_point():
    image = read_image(DATA / "flower.jpg", 3, (64, 64))
    index = chosen(64, 64, 600, corners=False)
    held_out = np.ones(64 * 64, bool)
    held_out[index] = False
    score = {
        method: psnr(
            interpolate(grid(64, 64)[index], image.reshape(-1, 3)[index], 64, 64, method),
            image,
            mask=held_out.reshape(64, 64),
        )
        for method in INTERPOLATIONS
    }
    assert min(score["linear"], score["thin_plate"]) > score["nearest"] + 0.5
    assert score["cubic"] > score["nearest"]


@pytest.mark.parametrize("method", INTERPOLATIONS)
@pytest.mark.parametrize(
    "points",
    [[[0, 0]], [[0, 0], [1, 1]], [[-1, -1], [0.1, 0.1], [0.3, 0.3], [1, 1]], [[0, 0], [0, 1]]],
)
def test_too_few_points_for_a_surface_give_the_nearest(method, points):
    points, values = np.array(points, float), np.arange(len(points), dtype=float)[:, None]
    filled = interpolate(points, values, 9, 12, method)
    np.testing.assert_array_equal(filled, interpolate(points, values, 9, 12, "nearest"))
    assert set(np.unique(filled)) <= set(values.ravel())


def test_a_single_row_of_pixels():
    filled = interpolate(np.array([[-1, -1], [-1, 1.0]]), np.array([[0], [1]]), 1, 4, "linear")
    np.testing.assert_array_equal(filled.ravel(), [0, 0, 1, 1])


def test_interpolation_errors():
    points, values = np.zeros((3, 2)), np.zeros((3, 1))
    with pytest.raises(ValueError, match="method"):
        interpolate(points, values, 4, 4, "quintic")


# Degenerate sets of points


def lattice(rows, columns):
    """The points (row, column) of a 33 x 40 grid, in [-1, 1]."""
    rows, columns = np.broadcast_arrays(rows, columns)
    return np.stack([rows.ravel() / 16 - 1, columns.ravel() / 19.5 - 1], 1)


ROWS, COLUMNS = np.mgrid[:33, :40]
DEGENERATE = {
    "one point": lattice([7], [9]),
    "two points": lattice([7, 20], [9, 30]),
    "three on one line": lattice([0, 10, 20], [0, 10, 20]),
    "one row": lattice(5, np.arange(40)),
    "a diagonal": lattice(np.arange(33), np.arange(33)),
    "two rows": lattice(ROWS[[4, 30]], COLUMNS[[4, 30]]),
    "two neighbouring rows": lattice(ROWS[4:6], COLUMNS[4:6]),
    "every 16th row": lattice(ROWS[::16], COLUMNS[::16]),
    "a frame": lattice(*np.nonzero((ROWS % 32 == 0) | (COLUMNS % 39 == 0))),
    "one point many times": lattice([7] * 50, [9] * 50),
    "three points many times": lattice([7, 7, 20] * 20, [9, 30, 9] * 20),
    "all but one": np.delete(lattice(ROWS, COLUMNS), 500, 0),
    "all": lattice(ROWS, COLUMNS),
}


@pytest.mark.parametrize("method", INTERPOLATIONS)
@pytest.mark.parametrize("points", DEGENERATE)
@pytest.mark.filterwarnings("ignore::siren.solvers.Degenerate")
def test_degenerate_points_are_filled_in(points, method):
    points = DEGENERATE[points]
    positions = np.rint((points + 1) / 2 * (32, 39)).astype(int)
    truth = 0.1 * ROWS - 0.05 * COLUMNS + 1  # linear, but for "nearest" exact inside of the hull
    values = truth[tuple(positions.T)][:, None]
    filled = interpolate(points, values, 33, 40, method)[..., 0]
    assert np.isfinite(filled).all()
    np.testing.assert_allclose(filled[tuple(positions.T)], values[:, 0], atol=1e-4)
    assert truth.min() - 1e-3 <= filled.min() and filled.max() <= truth.max() + 1e-3


def test_two_rows_are_joined_linearly_where_no_spline_is_determined():
    points = DEGENERATE["two rows"]
    values = np.random.default_rng(0).normal(size=(len(points), 1))
    with pytest.warns(Degenerate, match="nearly on one line.*linear is taken there"):
        filled = interpolate(points, values, 33, 40, "thin_plate")
    linear = interpolate(points, values, 33, 40, "linear")
    near = slice(5, 9), slice(15, 25)  # where the 32 nearest points are in one row
    np.testing.assert_allclose(filled[near], linear[near], atol=1e-5)


@pytest.mark.parametrize("method", ["linear", "cubic", "thin_plate"])
def test_points_on_one_line_are_told(method):
    points = DEGENERATE["a diagonal"]
    values = np.arange(33.0)[:, None]
    with pytest.warns(Degenerate, match=f"{method} needs given pixels that are not all on one"):
        filled = interpolate(points, values, 33, 40, method)
    np.testing.assert_array_equal(filled, interpolate(points, values, 33, 40, "nearest"))


def test_of_points_at_one_place_the_first_counts():
    points = np.concatenate([DEGENERATE["every 16th row"]] * 2)
    values = np.repeat([[1.0], [-1.0]], len(points) // 2, 0)
    for method in INTERPOLATIONS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Degenerate)
            np.testing.assert_allclose(interpolate(points, values, 33, 40, method), 1, atol=1e-6)
