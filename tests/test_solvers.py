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


def mask(height, width, count, corners=True, seed=6):
    """Mask of `count` random pixels, with the corners, so that their hull is the picture."""
    given = np.zeros((height, width), bool)
    given.flat[np.random.default_rng(seed).permutation(height * width)[:count]] = True
    given[:: height - 1, :: width - 1] |= corners
    return given


@pytest.mark.parametrize("method", INTERPOLATIONS)
@pytest.mark.parametrize("height, width, channels", [(20, 31, 3), (16, 16, 1)])
def test_given_pixels_stay_and_others_do_not_count(method, height, width, channels):
    image = noise((height, width, channels), 7)
    given = mask(height, width, 60, corners=False)
    filled = interpolate(image, given, method)
    assert filled.shape == image.shape and filled.dtype == np.float32
    np.testing.assert_array_equal(filled[given], image[given].astype(np.float32))
    other = np.where(given[..., None], image, np.nan)
    np.testing.assert_array_equal(interpolate(other, given, method), filled)


@pytest.mark.parametrize("method", ["linear", "cubic", "thin_plate"])
def test_planes_are_reproduced(method):
    rows, columns = np.indices((24, 37))
    planes = np.stack([0.3 + 0.05 * rows + 0.01 * columns, 0.02 * columns - 0.03 * rows], 2)
    filled = interpolate(planes, mask(24, 37, 50), method)
    np.testing.assert_allclose(filled, planes, atol=1e-5)


def test_nearest_by_brute_force():
    picture, given = noise((8, 40, 2), 9), mask(8, 40, 30, corners=False)
    pixels = np.indices(given.shape).reshape(2, -1).T
    filled = interpolate(picture, given, "nearest")
    for (row, column), value in zip(pixels, filled.reshape(-1, 2)):
        distances = np.hypot(*(np.argwhere(given) - [row, column]).T)
        nearest = picture[given][np.isclose(distances, distances.min())]  # some are equally far
        assert (abs(nearest - value) < 1e-6).all(1).any()


@pytest.mark.parametrize("method", ["linear", "cubic"])
def test_nearest_outside_the_hull(method):
    picture, given = np.zeros((9, 9, 1)), np.zeros((9, 9), bool)
    for row, column, value in ((2, 2, 1), (2, 6, 2), (6, 4, 4)):
        picture[row, column], given[row, column] = value, True
    filled = interpolate(picture, given, method)[:, :, 0]
    assert filled[0, 0] == 1 and filled[0, 8] == 2 and filled[8, 4] == 4
    assert 1 < filled[4, 4] < 4  # inside


def test_thin_plate_agrees_with_one_spline_through_all_pixels():
    image, given = read_image(DATA / "coffee.jpg", 1, (48, 64)), mask(48, 64, 400)
    ours = interpolate(image, given, "thin_plate")
    spline = RBFInterpolator(np.argwhere(given), image[given], kernel="thin_plate_spline")
    theirs = spline(np.indices((48, 64)).reshape(2, -1).T).reshape(48, 64, 1)
    assert psnr(ours, theirs) > 40
    assert psnr(ours, image) == pytest.approx(psnr(theirs, image), abs=0.1)


@pytest.mark.parametrize("method", ["linear", "cubic", "thin_plate"])
def test_pixels_far_from_a_gap_do_not_count(method):
    image = read_image(DATA / "coffee.jpg", 1, (64, 64))
    given = np.ones((64, 64), bool)
    given[20:30, 25:40] = False
    far = image.copy()
    far[:10], far[:, 50:] = np.nan, np.nan
    np.testing.assert_array_equal(
        interpolate(far, given, method)[~given], interpolate(image, given, method)[~given]
    )


def test_on_a_photograph_surfaces_beat_the_nearest_pixel():
    image, given = read_image(DATA / "flower.jpg", 3, (64, 64)), mask(64, 64, 600, corners=False)
    score = {
        method: psnr(interpolate(image, given, method), image, mask=~given)
        for method in INTERPOLATIONS
    }
    assert min(score["linear"], score["thin_plate"]) > score["nearest"] + 0.5
    assert score["cubic"] > score["nearest"]


@pytest.mark.parametrize("method", INTERPOLATIONS)
@pytest.mark.parametrize("pixels", [[(4, 5)], [(4, 5), (8, 11)], [(4, k) for k in (0, 5, 9)]])
@pytest.mark.filterwarnings("ignore::siren.solvers.Degenerate")
def test_too_few_pixels_for_a_surface_give_the_nearest(method, pixels):
    picture, given = noise((9, 12, 1), 3), np.zeros((9, 12), bool)
    given[tuple(np.transpose(pixels))] = True
    filled = interpolate(picture, given, method)
    np.testing.assert_array_equal(filled, interpolate(picture, given, "nearest"))
    assert set(np.unique(filled)) <= set(picture[given].astype(np.float32).ravel())


def test_a_single_row_of_pixels():
    given = np.array([[True, False, False, True]])
    filled = interpolate(np.array([[[0], [5], [5], [1]]]), given, "nearest")
    np.testing.assert_array_equal(filled.ravel(), [0, 0, 1, 1])


def test_interpolation_errors():
    with pytest.raises(ValueError, match="method"):
        interpolate(np.zeros((4, 4, 1)), mask(4, 4, 3), "quintic")


# Degenerate sets of given pixels

ROWS, COLUMNS = np.mgrid[:33, :40]
DEGENERATE = {
    "one": (ROWS == 7) & (COLUMNS == 9),
    "two": (ROWS == 7) & (COLUMNS == 9) | (ROWS == 20) & (COLUMNS == 30),
    "three on one line": (ROWS == COLUMNS) & (ROWS % 10 == 0) & (ROWS < 30),
    "one row": ROWS == 5,
    "a diagonal": ROWS == COLUMNS,
    "two rows": (ROWS == 4) | (ROWS == 30),
    "two neighbouring rows": (ROWS == 4) | (ROWS == 5),
    "every 16th row": ROWS % 16 == 0,
    "a frame": (ROWS % 32 == 0) | (COLUMNS % 39 == 0),
    "half": ROWS < 16,
    "all but one": (ROWS != 12) | (COLUMNS != 20),
    "all but a corner": ROWS + COLUMNS > 0,
    "all": ROWS >= 0,
}


@pytest.mark.parametrize("method", INTERPOLATIONS)
@pytest.mark.parametrize("given", DEGENERATE)
@pytest.mark.filterwarnings("ignore::siren.solvers.Degenerate")
def test_degenerate_pixels_are_filled_in(given, method):
    given = DEGENERATE[given]
    truth = 0.1 * ROWS - 0.05 * COLUMNS + 1  # linear, but for "nearest" exact inside of the hull
    filled = interpolate(truth[..., None], given, method)[..., 0]
    assert np.isfinite(filled).all()
    np.testing.assert_array_equal(filled[given], truth[given].astype(np.float32))
    assert truth.min() - 1e-3 <= filled.min() and filled.max() <= truth.max() + 1e-3


def test_two_rows_are_joined_linearly_where_no_spline_is_determined():
    given = DEGENERATE["two rows"]
    picture = np.random.default_rng(0).normal(size=(33, 40, 1))
    with pytest.warns(Degenerate, match="nearly on one line.*linear is taken there"):
        filled = interpolate(picture, given, "thin_plate")
    linear = interpolate(picture, given, "linear")
    near = slice(5, 9), slice(15, 25)  # where the 32 nearest pixels are in one row
    np.testing.assert_allclose(filled[near], linear[near], atol=1e-5)


@pytest.mark.parametrize("method", ["linear", "cubic", "thin_plate"])
def test_pixels_on_one_line_are_told(method):
    given, picture = DEGENERATE["a diagonal"], ROWS[..., None]
    with pytest.warns(Degenerate, match=f"{method} needs given pixels that are not all on one"):
        filled = interpolate(picture, given, method)
    np.testing.assert_array_equal(filled, interpolate(picture, given, "nearest"))
