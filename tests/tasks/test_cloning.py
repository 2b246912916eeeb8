"""Cloning a region: what Pérez, Gangnet and Blake (2003) define, against a sparse direct solver."""

import numpy as np
import pytest
from scipy import sparse
from scipy.sparse.linalg import spsolve

from siren import losses, operators, solvers
from siren.engine.fused import Fused
from siren.images import read_image
from siren.network import Siren
from siren.tasks.edit import Edit
from siren.training import loop
from siren.training.evaluation import predict_image
from siren.training.optimizer import Adam

SHAPE = (32, 40)
ROWS, COLUMNS = np.mgrid[: SHAPE[0], : SHAPE[1]]
REGIONS = {
    "disc": (ROWS - 15) ** 2 + (COLUMNS - 22) ** 2 < 80,
    "at the border": COLUMNS < 12,
    "in a corner": ROWS + COLUMNS < 25,
    "two": (abs(ROWS - 6) < 3) & (abs(COLUMNS - 8) < 4) | (abs(ROWS - 22) < 5) & (COLUMNS > 30),
    "noise": np.random.default_rng(0).random(SHAPE) < 0.5,
    "one pixel": (ROWS == 9) & (COLUMNS == 11),
    "all but one pixel": ~((ROWS == 3) & (COLUMNS == 5)),
}


@pytest.fixture(params=[1, 3], ids=["gray", "colour"])
def two_images(request, data):
    names = "camera.png", "rocket.jpg"
    return tuple(read_image(data / name, request.param, SHAPE) for name in names)


def pairs(region):
    """The pairs of neighbours with an end in ``region``: flat indices (n,) of both."""
    index = np.arange(region.size).reshape(region.shape)
    first = np.concatenate([index[:-1].ravel(), index[:, :-1].ravel()])
    second = np.concatenate([index[1:].ravel(), index[:, 1:].ravel()])
    some = region.ravel()[first] | region.ravel()[second]
    return first[some], second[some]


def solve(image, other, blend, alpha, region):
    """Equation 7, with the pixels of ``region`` as unknowns, by sparse Gaussian elimination."""
    flat, flat_other, inside = (a.reshape(region.size, -1) for a in (image, other, region))
    flat, flat_other, inside = flat.astype(float), flat_other.astype(float), inside[:, 0]
    first, second = pairs(region)
    own, theirs = flat[second] - flat[first], flat_other[second] - flat_other[first]
    if blend == "mixed":
        stronger = (theirs**2).sum(1, keepdims=True) > (own**2).sum(1, keepdims=True)
        wanted = np.where(stronger, theirs, own)
    else:
        wanted = alpha * own + (1 - alpha) * theirs
    wanted = np.where((inside[first] & inside[second])[:, None], wanted, own)
    n = np.arange(len(first))
    difference = sparse.csr_matrix(
        (np.r_[np.ones(len(n)), -np.ones(len(n))], (np.r_[n, n], np.r_[second, first])),
        (len(n), region.size),
    )
    unknown = difference[:, inside]
    right = unknown.T @ (wanted - difference[:, ~inside] @ flat[~inside])
    result = flat.copy()
    result[inside] = spsolve((unknown.T @ unknown).tocsc(), right).reshape(inside.sum(), -1)
    return result.reshape(image.shape)


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize(("blend", "alpha"), [("mixed", 0.5), ("average", 0.0), ("average", 0.3)])
def test_a_clone_is_that_of_a_sparse_solver(two_images, region, blend, alpha):
    region = REGIONS[region]
    for operator, norm in (("fd", "pixel"), ("forward", "operator"), ("forward", "pixel")):
        task = Edit(*two_images, operator, blend, alpha, norm, region)
        expected = solve(*two_images, blend, alpha, region)
        np.testing.assert_allclose(task.reference, expected, atol=1e-6)
        np.testing.assert_array_equal(task.reference[~region], two_images[0][~region])


@pytest.mark.parametrize("region", REGIONS)
def test_the_direct_solver_takes_any_field(region):
    region, random = REGIONS[region], np.random.default_rng(1)
    image, rows, columns = random.normal(size=(3, *SHAPE, 2))
    solution = solvers.solve_inside(image, rows, columns, region)
    residual = [a - b for a, b in zip(operators.fd_gradient(solution), (rows, columns))]
    residual[0][-1] = residual[1][:, -1] = 0
    # A least-squares solution leaves a residual that is orthogonal to all that could be changed.
    slope = -solvers._divergence(*(part.astype(np.float64) for part in residual))
    np.testing.assert_allclose(slope[region], 0, atol=1e-4)
    np.testing.assert_array_equal(solution[~region], image.astype(np.float32)[~region])


def test_a_region_of_everything_is_refused():
    with pytest.raises(ValueError, match="some of them False"):
        solvers.solve_inside(*np.zeros((3, 8, 8, 1)), np.ones((8, 8), bool))


def test_an_image_cloned_into_itself_does_not_change(two_images):
    image, _ = two_images
    for blend in ("mixed", "average"):
        task = Edit(image, image, "fd", blend, 0.3, region=REGIONS["two"])
        np.testing.assert_allclose(task.reference, image, atol=1e-6)


def test_an_offset_moves_the_region_and_its_image(two_images):
    image, other = two_images
    region = np.zeros(SHAPE, bool)
    region[4:12, 3:13] = True
    offset = Edit(image, other, "fd", "average", 0.0, region=region, offset=(3, -2)).reference
    moved = np.roll(other, (3, -2), (0, 1)), np.roll(region, (3, -2), (0, 1))
    expected = Edit(image, moved[0], "fd", "average", 0.0, region=moved[1]).reference
    np.testing.assert_allclose(offset, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("operator", "norm"),
    [
        *(("fd", norm) for norm in losses.NORMS),
        *(("forward", norm) for norm in losses.NORMS),
        ("autograd", "operator"),
    ],
)
def test_a_network_learns_the_clone(data, operator, norm):
    image, other = (read_image(data / name, 1, SHAPE) for name in ("camera.png", "rocket.jpg"))
    region = REGIONS["disc"]
    task = Edit(image, other, operator, "average", 0.0, norm, region)
    network = Siren(image.shape[2], hidden_features=64, hidden_layers=2)
    loop.train(network, task, Fused(), 200, Adam([network.flat], 2e-3))
    output = task.restore(predict_image(network, Fused(), SHAPE))
    error = np.sqrt(((output - task.reference) ** 2).mean())
    assert error < 0.15
