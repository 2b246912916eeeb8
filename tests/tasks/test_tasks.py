import dataclasses
from types import SimpleNamespace

import jittor as jt
import numpy as np
import pytest

from siren import cosine, losses, operators
from siren.cli import recipes
from siren.diffusion import edge_enhancing_diffusion
from siren.engine import reference
from siren.engine.workload import Workload
from siren.images import read_image
from siren.network import Siren
from siren.pictures import absolute_error, magnitude, signed, translate
from siren.priors import StructureVariation, TotalVariation
from siren.samples import Batch, grid, spacing
from siren.tasks import TASKS, load
from siren.tasks.edit import Edit, blend_fields
from siren.tasks.fit import Fit
from siren.tasks.inpaint import Inpaint
from siren.tasks.poisson import Poisson

SHAPES = [(16, 24, 1), (21, 13, 3)]


@pytest.fixture(params=SHAPES, ids=str)
def two_images(request, data):
    height, width, channels = request.param
    return tuple(
        read_image(data / name, channels, (height, width)) for name in ("camera.png", "rocket.jpg")
    )


class Painted:
    """Engine stand-in: a network that is exactly the given picture, for losses of values."""

    def __init__(self, image):
        self.values = jt.array(image.reshape(-1, image.shape[2]))

    def streams(self, network, coordinates, order, scale=(1.0, 1.0)):
        assert order == 0
        return [self.values]

    def squared_error(self, network, batch, order, scale=(1.0, 1.0)):
        assert order == 0
        return (self.values.reshape(batch.target.shape) - batch.target).sqr().mean()


def loss(task, engine, network=None):
    batch = Batch(jt.array(task.points.coordinates), jt.array(task.points.target))
    return task.loss(network, batch, engine).item()


def test_fit_is_pixel_mse(two_images):
    image, other = two_images
    task = Fit(image)
    assert task.reference is image
    assert loss(task, Painted(image)) == 0
    assert loss(task, Painted(other)) == pytest.approx(((image - other) ** 2).mean(), rel=1e-5)


def test_inpaint_gives_distinct_pixels_and_scores_the_others(two_images):
    image, _ = two_images
    height, width, channels = image.shape
    task = Inpaint(image, points=100, seed=7)
    assert task.given_mask.sum() == 100
    assert (task.scored == ~task.given_mask).all()
    assert (task.masked_image[task.given_mask] == image[task.given_mask]).all()
    assert (task.masked_image[~task.given_mask] == 0).all()  # mid-gray
    assert task.points.target.shape == (100, 1, channels)

    # each coordinate belongs to its value
    rows = np.rint((task.points.coordinates[:, 0] + 1) / spacing(height, width)[0]).astype(int)
    columns = np.rint((task.points.coordinates[:, 1] + 1) / spacing(height, width)[1]).astype(int)
    assert (image[rows, columns] == task.points.target[:, 0]).all()
    assert len(set(zip(rows, columns))) == 100

    again, another = Inpaint(image, 100, seed=7), Inpaint(image, 100, seed=8)
    assert (again.given_mask == task.given_mask).all()
    assert (another.given_mask != task.given_mask).any()


def test_poisson_target_is_the_laplacian_of_every_channel(two_images):
    image, other = two_images
    task = Poisson(image, "fd")
    expected = operators.fd_laplacian(image).reshape(-1, image.shape[2])
    np.testing.assert_allclose(task.points.target[:, 0], expected, atol=1e-5)
    assert loss(task, Painted(image)) < 1e-12
    # a constant is invisible to the loss, and put right by restore
    assert loss(task, Painted(image + 0.3)) < 1e-12
    shifted = image + np.linspace(-0.4, 0.3, image.shape[2], dtype=np.float32)
    np.testing.assert_allclose(task.restore(shifted), image, atol=1e-5)
    expected = ((operators.fd_laplacian(image) - operators.fd_laplacian(other)) ** 2).mean()
    assert loss(task, Painted(other)) == pytest.approx(expected, rel=1e-4)
    # contrast is not touched
    assert task.restore(0.1 * image).std() == pytest.approx(0.1 * image.std(), rel=1e-3)


@pytest.mark.parametrize("alpha", [0.5, 0.2])
def test_edit_average_is_the_average_image(two_images, alpha):
    image, other = two_images
    task = Edit(image, other, "fd", "average", alpha)
    average = alpha * image + (1 - alpha) * other
    np.testing.assert_allclose(task.reference, average, atol=2e-5)
    assert loss(task, Painted(average)) < 1e-12
    assert loss(task, Painted(image)) > 1e-3


def test_edit_mixed_follows_the_larger_gradient(two_images):
    image, other = two_images
    first, second = operators.fd_gradient(image), operators.fd_gradient(other)
    rows, columns = blend_fields(first, second, "mixed", 0.5)
    ours, theirs = (sum((d**2).sum(2) for d in field) for field in (first, second))
    clear = abs(ours - theirs) > 1e-5 * np.maximum(ours, theirs)  # a tie is decided by rounding
    for blended, *sources in zip((rows, columns), first, second):
        expected = np.where((ours > theirs)[..., None], *sources)
        assert (blended[clear] == expected[clear]).all()
    # a flat first image is replaced by the second one, a flat second one changes nothing
    flat = np.full_like(image, 0.25)
    for pair in ((flat, other), (other, flat)):
        task = Edit(*pair, "fd", "mixed", 0.5)
        difference = task.reference - other
        assert np.ptp(difference, axis=(0, 1)).max() < 1e-4
        mean = (flat.mean((0, 1)) + other.mean((0, 1))) / 2
        np.testing.assert_allclose(task.reference.mean((0, 1)), mean, atol=1e-4)


def test_edit_target_of_the_exact_operators_is_sobel(two_images):
    image, other = two_images
    task = Edit(image, other, "forward", "average", 0.5)
    rows, columns = operators.sobel_gradient((image + other) / 2)
    channels = image.shape[2]
    np.testing.assert_allclose(task.points.target[:, 0], rows.reshape(-1, channels), atol=1e-5)
    np.testing.assert_allclose(task.points.target[:, 1], columns.reshape(-1, channels), atol=1e-5)


@pytest.mark.parametrize("operator", operators.OPERATORS)
def test_colour_losses_are_the_mean_over_channels(data, operator):
    """A three-channel network of three gray ones has the mean of their losses."""
    image = read_image(data / "astronaut.jpg", 3, (12, 16))
    network = Siren(out_features=3, hidden_features=16, hidden_layers=1)
    gray = Siren(out_features=1, hidden_features=16, hidden_layers=1)
    *hidden, output = network.split(network.flat.numpy())
    losses = []
    for channel in range(3):
        gray.load_layers([*hidden, tuple(p[channel : channel + 1] for p in output)])
        task = Poisson(image[..., channel : channel + 1], operator)
        losses.append(loss(task, reference, gray))
    colour = loss(Poisson(image, operator), reference, network)
    assert colour == pytest.approx(np.mean(losses), rel=1e-4)


# ---- norms of the residual, priors, baselines -------------------------------------------------


def norms(error):
    """What the norms say of an error of the pixels, up to its mean."""
    return {
        "operator": (operators.fd_laplacian(error) ** 2).mean(),
        "energy": sum((d**2).sum() for d in operators.fd_gradient(error)) / error.size,
        "pixel": ((error - error.mean((0, 1))) ** 2).mean(),
    }


@pytest.mark.parametrize("norm", losses.NORMS)
def test_norms_of_the_poisson_residual(two_images, norm):
    """They are what the error's Laplacian, gradient and pixels say, up to the mean."""
    image, other = two_images
    expected = norms(other - image)[norm]

    def measured(picture):
        return residual(picture, operators.fd_laplacian(image)[..., None, :], norm)

    assert measured(other) == pytest.approx(expected, rel=1e-3)
    assert measured(other + 0.3) == pytest.approx(expected, rel=1e-3)
    assert measured(image) < 1e-9


def mixed_field(image, other):
    """The mixed gradient (height, width, 2, channels) of two images."""
    gradients = operators.fd_gradient(image), operators.fd_gradient(other)
    return np.stack(blend_fields(*gradients, "mixed", 0.5), 2)


def residual(picture, target, norm):
    """The norm of the finite differences minus ``target`` (height, width, K, channels)."""
    shape = picture.shape[:2]
    target = jt.array(target.reshape(-1, *target.shape[2:]).astype(np.float32))
    operator = operators.make_operator("fd", shape)
    norm = losses.make_norm(norm, operator, shape)
    mse = losses.laplacian_mse if target.shape[1] == 1 else losses.gradient_mse
    batch = Batch(jt.array(grid(*shape)), target)
    return mse(None, batch, Painted(picture), operator, norm).item()


def test_the_pixel_norm_of_finite_differences_is_the_error_of_the_pixels(two_images):
    """The identity by which tasks replace it, for pictures of mean 0."""
    image, other = two_images
    centred = other - other.mean((0, 1))
    target = operators.fd_laplacian(image)[..., None, :]
    task = Poisson(image, "fd", "pixel")
    assert task.pointwise
    assert loss(task, Painted(centred)) == pytest.approx(residual(other, target, "pixel"), rel=1e-3)
    task = Edit(image, other, "fd", "mixed", 0.5, "pixel")
    assert task.pointwise
    centred = image - image.mean((0, 1))
    field = mixed_field(image, other)
    assert loss(task, Painted(centred)) == pytest.approx(residual(image, field, "pixel"), rel=1e-3)
    assert not Poisson(image, "forward", "pixel").pointwise


@pytest.mark.parametrize("norm", losses.NORMS)
def test_norms_of_the_edit_residual(two_images, norm):
    """The error is that against the direct solution; what no picture can match is left out."""
    image, other = two_images
    direct = Edit(image, other, "fd", "mixed", 0.5).reference
    field = mixed_field(image, other)
    expected, measured = norms(image - direct), residual(image, field, norm)
    left_over = residual(direct, field, norm)
    if norm == "operator":  # least squares: the gradient of the error adds to what is left over
        assert measured - left_over == pytest.approx(expected["energy"] / 2, rel=1e-2)
    else:
        assert measured == pytest.approx(expected[norm], rel=2e-3)
        assert left_over < 1e-6


@pytest.mark.parametrize("operator", operators.OPERATORS)
@pytest.mark.parametrize("order", [1, 2])
def test_gradient_through_the_pixel_norm(operator, order):
    """Against central differences of the loss itself along a random direction."""
    rng = np.random.default_rng(order)
    shape = (7, 10)
    network = Siren(out_features=2, hidden_features=16, hidden_layers=1, omega_0=8.0)
    mse = losses.gradient_mse if order == 1 else losses.laplacian_mse
    through = operators.make_operator(operator, shape)
    norm = losses.make_norm("pixel", through, shape)
    count = 3 if order == 2 and norm.border else 3 - order
    target = jt.array(rng.normal(size=(70, count, 2)).astype(np.float32))
    x = jt.array(grid(*shape))
    start = network.flat.numpy()
    direction = rng.normal(size=start.shape).astype(np.float32)

    def measure():
        """Loss and gradient: for one without the other, Jittor would compile other operators."""
        loss = mse(network, Batch(x, target), reference, through, norm)
        (gradient,) = jt.grad(loss, [network.flat])
        jt.sync([loss, gradient])
        return loss.item(), gradient.numpy()

    slope = (measure()[1] * direction).sum()
    ends = []
    for sign in (1, -1):
        network.flat.update(jt.array(start + sign * 1e-3 * direction))
        network.flat.sync()
        ends.append(measure()[0])
    assert slope == pytest.approx((ends[0] - ends[1]) / 2e-3, rel=0.02)


def exact_residual(shape, function):
    """Gradient and Laplacian (height * width, 3, 1) of a function of pixels, by a fine stencil."""
    rows, columns = np.indices(shape).astype(np.float64)
    h = 1e-3
    down, up = function(rows + h, columns), function(rows - h, columns)
    right, left = function(rows, columns + h), function(rows, columns - h)
    parts = [(down - up) / (2 * h), (right - left) / (2 * h)]
    parts.append((down + up + right + left - 4 * function(rows, columns)) / h**2)
    return function(rows, columns), np.stack([p.ravel() for p in parts], 1)[..., None]


@pytest.mark.parametrize(
    ("function", "tolerance"),
    [
        (lambda r, c: np.cos(np.pi * 3 * r / 23) * np.cos(np.pi * 5 * c / 30), 0.12),
        (lambda r, c: (r**2 - c**2 + r * c) / 300, 0.12),  # harmonic: only its border tells it
        (lambda r, c: np.exp(-((r - 8) ** 2 + (c - 20) ** 2) / 30), 0.12),
    ],
)
def test_exact_derivatives_say_what_the_error_of_the_pixels_is(function, tolerance):
    """The trapezoidal rule's own error is of the order of a pixel over the side."""
    shape = (24, 31)
    picture, residual = exact_residual(shape, function)
    weights = np.outer(*(cosine.make_basis(n).weights for n in shape))
    mean = (weights * picture).sum() / weights.sum()
    square = (weights * (picture - mean) ** 2).sum() / picture.size
    energy = (weights.ravel() * (residual[:, :2, 0] ** 2).sum(1)).sum() / picture.size
    for name, expected in (("pixel", square), ("energy", energy)):
        norm = losses.make_norm(name, operators.Forward(shape), shape)
        for given in (residual[:, :2], residual):
            measured = norm(jt.array(given.astype(np.float32))).item()
            assert measured == pytest.approx(expected, rel=tolerance)


def test_a_network_that_is_the_cosine_interpolant_has_no_loss(two_images):
    """The targets of poisson and edit with exact derivatives, and the solution for a field."""
    image = two_images[0].astype(np.float64)
    rows, columns = cosine.gradient(image)
    task = Poisson(two_images[0], "forward", "pixel")
    exact = np.stack([rows, columns, cosine.laplacian(image)], 2).reshape(-1, 3, image.shape[2])
    target = jt.array(task.points.target)
    assert task.residual_loss(jt.array(exact.astype(np.float32)), target).item() < 1e-9
    task = Edit(two_images[0], two_images[0], "forward", "average", 0.5, "energy")
    target = jt.array(task.points.target)
    assert task.residual_loss(jt.array(exact[:, :2].astype(np.float32)), target).item() < 1e-9
    for ours, expected in zip(cosine.gradient(task.reference), (rows, columns)):
        np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_derivatives_of_the_interpolant_are_those_of_a_cosine():
    shape = (9, 14)
    rows, columns = np.indices(shape)
    a, b = np.pi * 2 / 8, np.pi * 5 / 13
    picture = (np.cos(a * rows) * np.cos(b * columns))[..., None]
    along_rows, along_columns = cosine.gradient(picture)
    expected = -a * np.sin(a * rows) * np.cos(b * columns)
    np.testing.assert_allclose(along_rows[..., 0], expected, atol=1e-12)
    expected = -b * np.cos(a * rows) * np.sin(b * columns)
    np.testing.assert_allclose(along_columns[..., 0], expected, atol=1e-12)
    np.testing.assert_allclose(cosine.laplacian(picture), -(a**2 + b**2) * picture, atol=1e-11)
    solution = cosine.solve_gradient(along_rows, along_columns)
    np.testing.assert_allclose(solution, picture, atol=1e-9)


def test_total_variation_of_a_plane_is_its_slope():
    def plane(network, coordinates, order):
        assert order == 1
        ones = coordinates[:, :1] * 0 + 1
        return [coordinates[:, :1], -3 * ones, 0.5 * ones]

    prior = TotalVariation(0.1, seed=0)
    assert prior(None, SimpleNamespace(streams=plane)).item() == pytest.approx(0.35)


class Wave:
    """An engine and network that vary along columns alone, by ``slope`` a pixel, on 40 pixels."""

    def __init__(self, slope=0.02):
        self.slope = slope

    def streams(self, network, coordinates, order, scale=(1.0, 1.0)):
        ones = coordinates[:, :1] * 0 + 1
        return [coordinates[:, :1], 0 * ones, self.slope * 39 / 2 * scale[1] * ones]

    def variation(self, *arguments):
        return reference.variation(*arguments, self.streams)


def test_structure_variation_before_and_across_and_along_an_edge():
    """A change across the edges of the picture is cheap, one along them is not."""
    slope, smallest = 0.2, 0.03  # the latter is where the root is rounded off
    across = np.tile(np.float32(slope) * np.arange(40, dtype=np.float32), (40, 1))[..., None]
    prior = StructureVariation((40, 40), 2 / 39, seed=0)  # which makes its unit a pixel
    start = prior(None, Wave(slope)).item()
    assert start == pytest.approx(np.hypot(slope, smallest), rel=1e-4)
    prior.update(across)
    factor = (1 + slope**2 / 0.01**2) ** -0.25  # the root of g
    inner = prior._diffusion_tensors(across)[20, 20]
    np.testing.assert_allclose(inner, [1, 0, factor**2], rtol=1e-3, atol=1e-6)
    cheap = np.hypot(factor * slope, smallest)
    assert prior(None, Wave(slope)).item() == pytest.approx(cheap, rel=0.1)
    prior.update(across.transpose(1, 0, 2).copy())
    assert prior(None, Wave(slope)).item() == pytest.approx(start, rel=1e-3)


def test_the_structure_tensor_turns_with_the_picture():
    """D of a diagonal wave has the diagonal across it as the cheap direction, in any colour."""
    rows, columns = np.indices((40, 40))
    picture = np.float32(np.sin((rows + columns) / 3))[..., None] * np.float32([1, -1, 0.5])
    dd, de, ee = StructureVariation((40, 40), 1.0, 0)._diffusion_tensors(picture)[20, 20]
    values, vectors = np.linalg.eigh([[dd, de], [de, ee]])
    assert values[0] < 0.2
    assert values[1] == pytest.approx(1, abs=1e-3)
    assert abs(vectors[:, 0] @ [1, 1]) == pytest.approx(np.sqrt(2), rel=1e-3)


def test_total_variation_points_are_fresh_and_seeded():
    seen = []

    def streams(network, coordinates, order):
        seen.append(coordinates.numpy())
        return [coordinates[:, :1]] * 3

    for seed in (1, 1, 2):
        prior = TotalVariation(1.0, seed)
        for _ in range(2):
            prior(None, SimpleNamespace(streams=streams))
    first, second, _, again, other, _ = seen
    assert np.abs(first).max() <= 1
    assert (first != second).any()
    assert (second == again).all()
    assert (first != other).any()


def test_baselines(two_images):
    image, other = two_images
    assert Fit(image).baselines() == []
    ((_, direct),) = Poisson(image, "forward").baselines()
    np.testing.assert_allclose(direct(), image, atol=1e-4)
    task = Edit(image, other, "forward", "mixed", 0.5)
    assert task.baselines()[0][1]() is task.reference
    task = Inpaint(image, 100, seed=0, hold_out=0.1)
    assert len(task.points.coordinates) + len(task.held_out.coordinates) == 100
    assert not set(map(tuple, task.points.coordinates)) & set(map(tuple, task.held_out.coordinates))
    for _, fill in task.baselines():
        filled = fill()
        np.testing.assert_allclose(filled[task.given_mask], image[task.given_mask], atol=1e-3)


def test_pictures_of_derivatives_and_errors():
    values = np.array([[-2.0, 0.0], [1.0, 2.0]])[..., None]
    picture, largest = signed(values)
    assert largest == 2
    assert picture[..., 0].tolist() == [[-1, 0], [0.5, 1]]
    picture, largest = magnitude(np.zeros((2, 2, 1)), values)
    assert picture[..., 0].tolist() == [[1, -1], [0, 1]]
    picture, largest = absolute_error(np.float32([[[3.0], [0.0]]]), np.float32([[[1.0], [0.5]]]))
    assert largest == 2
    assert picture[..., 0].tolist() == [[1, -0.5]]


# ---- masks --------------------------------------------------------------------------------------


def test_inpaint_with_a_mask_fills_in_what_is_missing(two_images):
    image, _ = two_images
    missing = np.zeros(image.shape[:2], bool)
    missing[3:9, 4:10] = True
    task = Inpaint(image, points=1, seed=0, hold_out=0.1, missing=missing)
    assert (task.given_mask == ~missing).all()
    assert (task.scored == missing).all()
    count = image[..., 0].size - 36
    assert len(task.points.coordinates) == count - int(0.1 * count)
    assert len(task.held_out.coordinates) == int(0.1 * count)
    assert (task.masked_image[~missing] == image[~missing]).all()
    for _, fill in task.baselines():
        filled = fill()
        np.testing.assert_allclose(filled[~missing], image[~missing], atol=1e-5)


def test_the_middle_of_a_wide_gap_is_learned_from_the_diffusion(two_images):
    image = np.tile(two_images[0], (4, 4, 1))
    height, width, channels = image.shape
    missing = np.zeros((height, width), bool)
    missing[6:30, 4:32] = True
    follows = StructureVariation((height, width), 1e-3, seed=0)
    task = Inpaint(image, 1, 0, follows, hold_out=0.1, missing=missing)
    plain = Inpaint(image, 1, 0, TotalVariation(1e-3, seed=0), hold_out=0.1, missing=missing)
    trained_on = np.zeros((height, width), bool)
    trained_on.flat[plain.points.pixels] = True
    distances = np.hypot(*(np.argwhere(missing)[:, None] - np.argwhere(trained_on)[None]).T).min(
        0
    )  # by brute force
    far = np.ravel_multi_index(
        np.argwhere(missing)[distances > 4 / trained_on.mean() ** 0.5].T, (height, width)
    )
    assert 50 < len(far) < 500
    assert task.points.pixels.tolist() == [*plain.points.pixels, *far]
    filled = edge_enhancing_diffusion(image, trained_on).reshape(-1, 1, channels)
    np.testing.assert_allclose(task.points.target, filled[task.points.pixels], atol=0.5 / 127)
    assert (task.points.target[: len(plain.points)] == plain.points.target).all()
    assert task.points.values.dtype == np.uint8  # as without them
    # They are not given, and random pixels leave none so far away.
    assert (task.scored == missing).all() and (task.masked_image[missing] == 0).all()
    assert len(Inpaint(image, 60, 0, follows).points) == 60


def test_moving_a_picture():
    array = np.arange(12).reshape(3, 4)
    assert translate(array, (0, 0)).tolist() == array.tolist()
    assert translate(array, (1, -2), -1).tolist() == [[-1] * 4, [2, 3, -1, -1], [6, 7, -1, -1]]
    assert translate(array, (1, -2)).tolist() == [[2, 3, 3, 3], [2, 3, 3, 3], [6, 7, 7, 7]]
    assert translate(array, (9, 9), 0).tolist() == np.zeros((3, 4)).tolist()


# ---- what tasks declare -----------------------------------------------------------------------


NETWORK = Workload("fp32", width=40, layers=2, muon=True)


@pytest.mark.parametrize(
    ("task", "options", "expected"),
    [
        ("fit", (), ((0,), True, (), False, (0,))),
        ("inpaint", ("forward", "operator", "tv", True), ((0,), True, (1,), False, (0,))),
        ("poisson", (), ((2,), False, (), False, (0, 2))),
        ("poisson", ("forward", "pixel"), ((), False, (2,), False, (0, 2))),
        ("inpaint", ("fd", "pixel", "structure"), ((0,), True, (), True, (0,))),
        ("edit", ("fd", "pixel"), ((0,), False, (), False, (0, 2))),
        ("edit", ("fd", "energy"), ((), False, (0,), False, (0, 2))),
        ("edit", ("forward", "operator", "none", True), ((), False, (1,), False, (0, 2))),
        ("edit", ("autograd", "energy"), ((), False, (), False, (0, 2))),
    ],
)
def test_which_functions_a_task_uses(task, options, expected):
    names = "losses", "compact", "streams", "variation", "pictures"
    workload = TASKS[task].workload(NETWORK, *options)
    assert tuple(getattr(workload, name) for name in names) == expected
    assert workload == dataclasses.replace(NETWORK, **dict(zip(names, expected)))


@pytest.mark.parametrize("norm", losses.NORMS)
@pytest.mark.parametrize("operator", operators.OPERATORS)
def test_which_losses_are_means_over_points(two_images, operator, norm):
    """A mean over points is also the mean of those of two halves of them."""
    image, _ = two_images
    task = Poisson(image, operator, norm)
    assert task.pointwise == TASKS["poisson"].pointwise(operator, norm)
    assert TASKS["fit"].pointwise(operator, norm)
    if task.pointwise:
        network = Siren(image.shape[2], hidden_features=8, hidden_layers=1)
        points, target = task.points.coordinates, task.points.target
        half = len(points) // 2
        parts = [
            task.loss(network, Batch(jt.array(points[part]), jt.array(target[part])), reference)
            for part in (slice(half), slice(half, 2 * half), slice(2 * half))
        ]
        assert (parts[0] + parts[1]).item() / 2 == pytest.approx(parts[2].item(), rel=1e-4)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_makes_the_files_that_it_declares(two_images, name):
    image, other = two_images
    recipe = dataclasses.asdict(recipes.choose("report", name)[0])
    settings = SimpleNamespace(**recipe, points=9, seed=0, blend="mixed", alpha=0.5, offset=(0, 0))
    pictures = SimpleNamespace(image=image, other=other, mask=None)
    task = load(name).make(settings, pictures, None)
    assert task.declared is TASKS[name]
    assert type(task).__name__.lower() == name
    own = task.pictures(lambda: (image, image, image))
    assert [make().shape for make in own] == [image.shape] * len(task.declared.files)
