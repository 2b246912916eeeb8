"""Points by strips and by batches: the same gradient, exactly or in the mean."""

import json

import jittor as jt
import numpy as np
import pytest
from numpy_siren import relative_error
from PIL import Image
from program import call, run

from siren import distributed, samples
from siren.engine import reference
from siren.engine.fused import Fused
from siren.images import read_image
from siren.network import Siren
from siren.priors import TotalVariation
from siren.samples import Batches, Points, evenly_spaced
from siren.tasks.edit import Edit
from siren.tasks.fit import Fit
from siren.tasks.inpaint import Inpaint
from siren.tasks.poisson import Poisson
from siren.training import evaluation, gradient, loop
from siren.training.checkpoint import Checkpoint
from siren.training.gradient import Gradient
from siren.training.optimizer import Adam, linear

SHAPE = 12, 15
KINDS = {
    "fit": lambda a, b: Fit(a),
    "fit, prior": lambda a, b: Fit(a, TotalVariation(0.1, 0)),
    "inpaint": lambda a, b: Inpaint(a, 120, 0),
    "poisson": lambda a, b: Poisson(a, "forward"),
    "poisson, autograd": lambda a, b: Poisson(a, "autograd"),
    "poisson, fd, pixel": lambda a, b: Poisson(a, "fd", "pixel"),
    "edit": lambda a, b: Edit(a, b, "forward", "mixed", 0.5),
    "edit, fd": lambda a, b: Edit(a, b, "fd", "mixed", 0.5),
    "edit, energy": lambda a, b: Edit(a, b, "forward", "mixed", 0.5, "energy"),
}
# Jittor compiles some twenty operators for second derivatives by autograd.
SAMPLE = [
    pytest.param(kind, marks=pytest.mark.soak) if "autograd" in kind else kind for kind in KINDS
]


@pytest.fixture
def images(data):
    return [read_image(data / name, 3, SHAPE) for name in ("astronaut.jpg", "rocket.jpg")]


def network():
    return Siren(3, hidden_features=16, hidden_layers=1, omega_0=10.0)


@pytest.mark.parametrize("count", [1, 3, 30])
def test_rows_are_handed_out_in_blocks(monkeypatch, count):
    array = np.random.default_rng(0).integers(0, 2**16, (23, 2, 3)).astype(np.uint16)
    monkeypatch.setattr(distributed, "_BLOCK", 50)  # four rows
    monkeypatch.setattr(distributed, "world_size", lambda: count)
    sent = []
    for number in range(count):
        left = iter(sent)

        def broadcast(content, number=number, left=left):
            if number == 0:
                sent.append(content)
            return next(left)

        monkeypatch.setattr(distributed, "rank", lambda number=number: number)
        monkeypatch.setattr(distributed, "broadcast", broadcast)
        ours = distributed.scatter(array if number == 0 else array[:0])
        share = distributed.share(len(array))
        assert ours.dtype == array.dtype
        assert (ours == array[share.start : share.stop]).all()
    assert all(len(content) <= 50 for content in sent)
    assert sum(map(len, sent[1:])) == array.nbytes


def whole(kind, images):
    """Loss and gradient by one call of the task's own loss."""
    net, task = network(), KINDS[kind](*images)
    x, target = jt.array(task.points.coordinates), jt.array(task.points.target)
    loss = task.loss(net, samples.Batch(x, target), reference)
    if task.prior is not None:
        loss = loss + task.prior(net, reference)
    (slope,) = jt.grad(loss, [net.flat])
    return loss.item(), slope.numpy()


def stepwise(kind, images, batch=None, engine=reference, step=0):
    net, task = network(), KINDS[kind](*images)
    loss, slope = Gradient(net, task, engine, batch)(step)
    return loss.item(), slope.numpy()


@pytest.mark.parametrize("kind", SAMPLE)
def test_strips_add_up_to_the_whole(images, monkeypatch, kind):
    loss, slope = whole(kind, images)
    one = stepwise(kind, images)
    monkeypatch.setattr(gradient, "POINTS_AT_ONCE", 37)
    many = stepwise(kind, images)
    for ours in (one, many):
        assert ours[0] == pytest.approx(loss, rel=1e-5)
        assert relative_error(ours[1], slope) < 1e-5


def test_strips_with_the_fused_engine(images, monkeypatch):
    for kind in ("fit", "poisson, fd, pixel", "edit"):
        loss, slope = whole(kind, images)
        monkeypatch.setattr(gradient, "POINTS_AT_ONCE", 37)
        ours = stepwise(kind, images, engine=Fused())
        assert ours[0] == pytest.approx(loss, rel=1e-4)
        assert relative_error(ours[1], slope) < 1e-4


@pytest.mark.parametrize("kind", SAMPLE)
def test_the_mean_gradient_of_a_pass_is_the_whole_one(images, monkeypatch, kind):
    """Exactly, with batches of unequal size, weighted by it, and with a prior; one is far off."""
    loss, slope = whole(kind, images)
    monkeypatch.setattr(gradient, "POINTS_AT_ONCE", 13)
    net, task = network(), KINDS[kind](*images)
    count, batches = len(task.points), Batches(14, 5)
    of_batch = Gradient(net, task, reference, batches)
    losses, slopes, sizes = [], [], []
    for step in range(2 * batches.steps(count), 3 * batches.steps(count)):
        if task.prior is not None:  # the same points each time, as in the whole
            task.prior.random = samples.generator(0, samples.PRIOR)
        value, part = of_batch(step)
        losses.append(value.item())
        slopes.append(part.numpy().astype(np.float64))
        sizes.append(len(batches.select(count, step)))
    assert np.average(losses, weights=sizes) == pytest.approx(loss, rel=1e-5)
    assert relative_error(np.average(slopes, axis=0, weights=sizes), slope) < 1e-5
    assert relative_error(slopes[0], slope) > 1e-2


def test_a_sample_is_spread_evenly():
    for count, most in ((12, 4), (13, 4), (7, 7), (10, 3), (1000, 999), (3, 9)):
        numbers = evenly_spaced(count, most)
        assert len(numbers) == min(count, most)
        gaps = np.diff([-1, *numbers, count])
        assert gaps.min() > 0
        assert gaps.max() <= -(-count // min(count, most)) + 1


def test_a_pass_takes_every_point_once():
    for count, size in (
        (12, 4),
        (13, 4),
        (7, 7),
        (10, 3),
        (1000, 999),
        (65, 64),
        (4096, 17),
        (5, 1),
    ):
        batches = Batches(size, 3)
        steps = batches.steps(count)
        for number in range(3):
            parts = [batches.select(count, number * steps + k).indices() for k in range(steps)]
            assert all(len(part) <= size and (np.diff(part) > 0).all() for part in parts)
            assert (np.sort(np.concatenate(parts)) == np.arange(count)).all()


def test_any_two_neighbours_are_in_different_batches_at_random():
    """Of each ``steps`` consecutive points a batch has one, and each as often as the others."""
    count, batches = 600, Batches(100, 1)
    drawn = np.zeros(count)
    for number in range(300):
        part = batches.select(count, number * batches.steps(count)).indices()
        assert (part // 6 == np.arange(100)).all()
        drawn[part] += 1
    assert abs(drawn - 50).max() < 5 * np.sqrt(300 / 6 * 5 / 6)


@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_parts_of_a_selection(steps):
    """Those within shares, and strips of at most so many points, are the whole in order."""
    count = 200
    batch = Batches(-(-count // steps), 3).select(count, steps // 2)
    indices = batch.indices()
    for ranks in (1, 2, 3, 50):
        bounds = [count * rank // ranks for rank in range(ranks + 1)]
        shares = [range(*pair) for pair in zip(bounds, bounds[1:])]
        parts = [batch.within(share).indices() for share in shares]
        assert (np.concatenate(parts) == indices).all()
        assert all(set(part) <= set(share) for part, share in zip(parts, shares))
    strips = list(batch.strips(3))
    assert all(1 <= len(strip) <= 3 for strip in strips)
    assert (np.concatenate([strip.indices() for strip in strips]) == indices).all()


def test_points_are_held_compactly(data, tmp_path):
    image = read_image(data / "camera.png", 1, SHAPE)
    task = Fit(image)
    assert task.points.values.dtype == np.uint8
    assert (task.points.target[:, 0] == image.reshape(-1, 1)).all()
    deep = np.random.default_rng(0).integers(0, 65536, SHAPE).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    image = read_image(tmp_path / "deep.png", 1)
    numbers, levels = samples.compact(image)
    assert numbers.dtype == np.uint16
    assert (numbers[..., 0] == deep).all()
    assert (levels[numbers] == image).all()
    values = np.float32([[0.1234567]])
    numbers, levels = samples.compact(values)
    assert levels is None
    assert numbers is values


def test_loaded_points_are_the_points(images):
    rng = np.random.default_rng(0)
    for ours in (
        Points(SHAPE, images[0].reshape(-1, 1, 3)),
        Points(SHAPE, rng.normal(size=(180, 2, 3)).astype(np.float32)),
        Points(SHAPE, images[0].reshape(-1, 1, 3)[[5, 170, 7]], np.array([5, 170, 7])),
    ):
        which = rng.integers(0, len(ours), 20)
        share = ours.without_values()
        rest = slice(1, None)
        pixels = None if ours.pixels is None else ours.pixels[rest]
        share.set_share(range(1, len(ours)), ours.values[rest], pixels)
        for points in (ours, share):
            indices = which[which >= points.stored.start]
            stored = samples.DevicePoints(points, points.stored)
            for x, target, _ in (stored.gather(indices), points.gather(indices)):
                assert (x.numpy() == ours.coordinates[indices]).all()
                assert (target.numpy() == ours.target[indices]).all()


@pytest.mark.parametrize("kind", ["fit", "inpaint", "poisson", "edit, fd"])
def test_training_by_batches_goes_on_to_the_same_network(images, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(evaluation, "SAMPLE_OF_BATCHES", 50)

    def train(ours=None, stop=lambda: False):
        net, task = network(), KINDS[kind](*images)
        optimizer = Adam([net.flat], 1e-3)
        result = loop.train(
            net, task, reference, 60, optimizer, linear, ours, stop, batches=Batches(40, 3)
        )
        return net.flat.numpy(), result

    expected, straight = train()
    asked = iter([False] * 11 + [True])
    _, stopped = train(Checkpoint(tmp_path, {}), lambda: next(asked))
    ours = Checkpoint(tmp_path, {})
    ours.state = ours.load()
    assert stopped.ended == "interrupted"
    assert [s.epoch for s in stopped.history] == list(range(ours.state.epoch))
    assert ours.state.step == 12
    assert ours.state.epoch == -(-12 // Batches(40, 3).steps(len(KINDS[kind](*images).points)))
    resumed, result = train(ours)
    assert (resumed == expected).all()
    assert result.best.epoch == straight.best.epoch
    assert [s.loss for s in result.history] == [s.loss for s in straight.history]
    assert all(s.psnr is not None for s in result.history[::5])
    if kind == "edit, fd":  # the loss of a whole grid is exact
        assert result.best.loss == min(s.loss for s in result.history)
    else:
        measured = [s for s in result.history if s.validation is not None]
        assert len(measured) < len(result.history)
        assert result.best.validation == min(s.validation for s in measured)


def test_the_sampled_psnr_is_near_that_of_all(images, monkeypatch):
    monkeypatch.setattr(evaluation, "SAMPLE", 170)
    for kind in ("fit", "poisson", "edit", "inpaint"):
        net, task = network(), KINDS[kind](*images)
        pixels = evaluation.sample_pixels(task)
        if task.scored is not None:
            assert task.scored.ravel()[pixels].all()
        ours = evaluation.sampled_score(task, net, reference, pixels)
        exact = evaluation.score(task, evaluation.predict_image(net, reference, SHAPE))
        assert ours == pytest.approx(exact, abs=0.3)


@pytest.mark.parametrize(
    ("task", "recipe"),
    [
        ("fit", "report"),
        ("poisson", "report"),
        ("poisson", "tuned"),
        ("edit", "tuned"),
        ("inpaint", "tuned"),
    ],
)
def test_tasks_and_recipes_in_batches(tmp_path, task, recipe):
    size = ["--sidelength", "20", "--hidden_features", "16", "--epochs", "3"]
    size += ["--points", "150"] if task == "inpaint" else []
    arguments = ["--device", "cpu", "--task", task, "--recipe", recipe, "--batch_points", "64"]
    result = call(*arguments, *size, "--output_dir", tmp_path)
    assert result.returncode == 0, result.stderr
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["options"]["batch_points"] == 64
    assert np.isfinite(metrics["psnr"])


def test_too_large_a_batch_is_refused(tmp_path):
    arguments = ["--device", "cpu", "--sidelength", "8", "--batch_points", "65"]
    result = run(*arguments, "--output_dir", tmp_path / "x")
    assert result.returncode == 2
    assert "--batch_points 65 is more than the 64 points" in result.stderr
    assert not (tmp_path / "x").exists()
