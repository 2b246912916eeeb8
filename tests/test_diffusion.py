from functools import partial

import numpy as np
import pytest
from program import ROOT

from siren import diffusion
from siren.diffusion import edge_enhancing_diffusion
from siren.images import read_image
from siren.metrics import psnr

DATA = ROOT / "data"


def some_pixels(shape, share, seed=0):
    given = np.random.default_rng(seed).random(shape) < share
    given.flat[-1] = True
    return given


def operator(u, **settings):
    return diffusion.diffusion(*diffusion.diffusion_tensors(u, **settings))


def dense_energy(u, tensors):
    """The energy of ``diffusion._links``, written down cell by cell."""
    a, b, c = tensors
    energy = 0.0
    for i, j in np.ndindex(a.shape):
        p, q, r, s = u[i, j], u[i, j + 1], u[i + 1, j], u[i + 1, j + 1]
        row, column, chess = (r - p + s - q) / 2, (q - p + s - r) / 2, (p + s - q - r) / 2
        k = (abs(a[i, j] - c[i, j]) + a[i, j] + c[i, j] - 2 * abs(b[i, j])) / 2
        energy += a[i, j] * row**2 + 2 * b[i, j] * row * column + c[i, j] * column**2 + k * chess**2
    return energy


def dense_matrix(tensors):
    """K with u^T K u = ``dense_energy``, for pictures of which each pixel is asked."""
    shape = tensors[0].shape[0] + 1, tensors[0].shape[1] + 1
    units = np.eye(shape[0] * shape[1]).reshape(-1, *shape)
    single = [dense_energy(x, tensors) for x in units]
    matrix = np.diag(single)
    for i, j in zip(*np.triu_indices(len(units), 1)):
        both = dense_energy(units[i] + units[j], tensors)
        matrix[i, j] = matrix[j, i] = (both - single[i] - single[j]) / 2
    return matrix


def random_tensors(shape, seed):
    """As oblique and as anisotropic as they can be in a picture."""
    random = np.random.default_rng(seed)
    angle, g = random.uniform(0, np.pi, shape), 10 ** random.uniform(-2.5, 0, shape)
    cos, sin = np.cos(angle), np.sin(angle)
    return g * cos**2 + sin**2, (g - 1) * cos * sin, g * sin**2 + cos**2


def test_links_are_the_energy_of_the_cells():
    tensors = random_tensors((4, 5), 0)
    matrix, links = dense_matrix(tensors), diffusion._links(*tensors)
    u = np.random.default_rng(1).normal(size=(1, 5, 6))
    np.testing.assert_allclose(diffusion._apply(links, u).ravel(), matrix @ u.ravel(), atol=1e-12)
    smallest, second = np.linalg.eigvalsh(matrix)[:2]
    assert abs(smallest) < 1e-12 and second > 1e-4  # only constants cost nothing


def test_the_steady_state_agrees_with_a_direct_solution(monkeypatch):
    """Solved to the end, it is the same fixed point as by dense elimination."""
    monkeypatch.setattr(diffusion, "_STEPS", 200)
    monkeypatch.setattr(diffusion, "_ACCURACY", 1e-6)
    image = read_image(DATA / "coffee.jpg", 3, (12, 10))
    given = some_pixels((12, 10), 0.3)
    picture = np.where(given, np.moveaxis(image, 2, 0), 0)
    planes = diffusion.steady_state(picture, given, operator)
    matrix = dense_matrix(diffusion.diffusion_tensors(planes))
    free, fixed = np.flatnonzero(~given), np.flatnonzero(given)
    right = -matrix[np.ix_(free, fixed)] @ planes.reshape(3, -1)[:, fixed].T
    expected = np.linalg.solve(matrix[np.ix_(free, free)], right)
    np.testing.assert_allclose(planes.reshape(3, -1)[:, free].T, expected, atol=2e-3)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (30, 1), (2, 40), (3, 3), (9, 17), (64, 50)])
def test_given_pixels_are_exact_and_bound_the_others(shape, channels):
    image = np.random.default_rng(2).uniform(-1, 1, (*shape, channels))
    for share in (0.05, 0.5, 2.0):
        given = some_pixels(shape, share)
        known = image.astype(np.float32)[given]
        hidden = np.where(given[..., None], image, np.nan)  # what is not given plays no part
        filled = edge_enhancing_diffusion(hidden, given)
        assert filled.shape == image.shape and filled.dtype == np.float32
        assert (filled[given] == known).all()
        assert (known.min(0) <= filled).all() and (filled <= known.max(0)).all()
        assert (filled == edge_enhancing_diffusion(image, given)).all()


def test_a_constant_and_a_single_pixel_fill_everything():
    image = np.full((20, 30, 3), 0.3) * [1, 0, -2]
    given = np.zeros((20, 30), bool)
    given[4, 7] = True
    for mask in (given, some_pixels((20, 30), 0.1)):
        np.testing.assert_allclose(edge_enhancing_diffusion(image, mask), image, atol=1e-6)


def test_a_single_row_is_joined_linearly():
    # One direction only, in which flux is constant between two given pixels of a gentle ramp.
    image = np.linspace(-0.05, 0.05, 41)[None, :, None]
    given = np.zeros((1, 41), bool)
    given[0, [0, -1]] = True
    np.testing.assert_allclose(edge_enhancing_diffusion(image, given), image, atol=1e-3)


def test_equal_channels_are_filled_in_as_one():
    image = read_image(DATA / "camera.png", 1, (64, 64))
    given = some_pixels((64, 64), 0.1)
    gray = edge_enhancing_diffusion(image, given)
    color = edge_enhancing_diffusion(np.repeat(image, 3, 2), given)
    np.testing.assert_allclose(color, np.repeat(gray, 3, 2), atol=1e-4)


def test_a_slanted_edge_is_sharper_than_the_harmonic_solution():
    rows, columns = np.indices((64, 64))
    image = np.where(2 * rows + columns > 100, 1.0, -1.0)[..., None]
    given = some_pixels((64, 64), 0.05)
    enhanced = edge_enhancing_diffusion(image, given)
    picture = np.where(given, np.moveaxis(image, 2, 0), 0)
    harmonic = diffusion.steady_state(picture, given, partial(operator, contrast=np.inf))  # D = I
    harmonic = np.moveaxis(harmonic, 0, 2)
    assert psnr(enhanced, image, mask=~given) > psnr(harmonic, image, mask=~given) + 2


@pytest.mark.parametrize("channels, least", [(1, 25.7), (3, 25.4)])
def test_photograph(channels, least):
    """Better than 25.49 and 25.22 dB, of a fixed point solved by sparse elimination."""
    image = read_image(DATA / "flower.jpg", channels, (256, 256))
    given = np.zeros(256 * 256, bool)
    given[np.random.default_rng(0).choice(256 * 256, 5000, replace=False)] = True
    given = given.reshape(256, 256)
    assert psnr(edge_enhancing_diffusion(image, given), image, mask=~given) > least


def test_masks_with_wide_gaps():
    image = read_image(DATA / "coffee.jpg", 1, (64, 64))
    rows, columns = np.indices((64, 64))
    block = (abs(rows - 32) > 12) | (abs(columns - 32) > 12)
    for given in (block, rows % 4 == 0, (rows + columns) % 2 == 0, columns < 32):
        filled = edge_enhancing_diffusion(image, given)
        mean = np.where(given[..., None], image, image[given].mean())
        assert psnr(filled, image, mask=~given) > psnr(mean, image, mask=~given)


def test_errors():
    image, given = np.zeros((4, 5, 1)), np.ones((4, 5), bool)
    with pytest.raises(ValueError, match="no pixel"):
        edge_enhancing_diffusion(image, ~given)
    for bad in (given[:3], given.astype(int)):
        with pytest.raises(ValueError, match="booleans"):
            edge_enhancing_diffusion(image, bad)
    with pytest.raises(ValueError, match="height, width, channels"):
        edge_enhancing_diffusion(image[..., 0], given)
