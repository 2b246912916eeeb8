import itertools
import math
import types

import numpy as np
import pytest
from numpy_siren import layers_of, relative_error, value

from siren.engine import reference
from siren.images import read_image
from siren.network import Siren
from siren.samples import grid
from siren.tasks.fit import Fit
from siren.tasks.inpaint import Inpaint
from siren.tasks.poisson import Poisson
from siren.training import evaluation, loop
from siren.training.optimizer import Adam
from siren.training.progress import Progress, Training


def train(network, task, engine, epochs, learning_rate):
    optimizer = Adam([network.flat], learning_rate)
    return loop.train(network, task, engine, epochs, optimizer)


def test_the_best_epoch_is_chosen_by_held_out_pixels(data):
    image = read_image(data / "camera.png", 1, (24, 24))
    task = Inpaint(image, points=200, seed=0, hold_out=0.25)
    network = Siren(hidden_features=64)
    result = train(network, task, reference, 80, 2e-3)
    validations = [state.validation for state in result.history]
    assert result.best.validation == min(validations)
    assert result.best.loss > min(state.loss for state in result.history)  # it overfits
    x, pixels = task.held_out.coordinates, task.held_out.target
    output = value(layers_of(network), 30.0, x.astype(np.float64))
    assert ((output - pixels[:, 0]) ** 2).mean() == pytest.approx(min(validations), rel=1e-3)


@pytest.fixture
def fit(data):
    return Siren(hidden_features=32), Fit(read_image(data / "camera.png", 1, (16, 20)))


def test_training_learns_and_keeps_the_best(fit):
    network, task = fit
    result = train(network, task, reference, 150, 1e-3)
    assert result.ended == "finished"
    assert [state.epoch for state in result.history] == list(range(151))
    losses = [state.loss for state in result.history]
    assert result.best.loss == min(losses)
    assert result.best.loss < losses[0] / 20

    # the network has exactly the parameters that gave the best loss
    output = value(layers_of(network), 30.0, grid(16, 20).astype(np.float64))
    loss = ((output.reshape(16, 20, 1) - task.reference) ** 2).mean()
    assert loss == pytest.approx(result.best.loss, rel=1e-3)
    measured = [state for state in result.history if state.psnr is not None]
    assert measured[-1].epoch == 150
    assert measured[-1].psnr == pytest.approx(10 * math.log10(4 / losses[-1]), abs=0.2)


@pytest.mark.parametrize("ended", ["diverged", "interrupted"])
def test_a_training_that_ends_early_has_the_best_network(fit, monkeypatch, ended):
    network, task = fit
    original, calls = task.loss, itertools.count(1)

    def loss(*arguments):
        """It is fine three times."""
        value = original(*arguments)
        if next(calls) <= 3:
            return value
        if ended == "interrupted":
            raise KeyboardInterrupt
        return value / 0.0

    monkeypatch.setattr(task, "loss", loss)
    result = train(network, task, reference, 50, 1e-3)
    assert result.ended == ended
    assert len(result.history) == 3
    assert result.best == min(result.history, key=lambda state: state.loss)
    assert all(np.isfinite(weight).all() for weight, _ in layers_of(network))


def test_plain_lines_where_output_is_not_a_terminal(fit, capsys):
    network, task = fit
    train(network, task, reference, 230, 1e-4)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["100/230", "200/230", "230/230"]
    assert all("loss" in line and "PSNR" in line and "left" in line for line in lines)
    assert "\r" not in "".join(lines)


def test_evaluation_in_pieces_is_the_whole(fit, monkeypatch):
    network, _ = fit
    points = grid(13, 17)
    whole = evaluation.evaluate(network, reference, points, order=2, scale=(0.1, 0.2))
    monkeypatch.setattr(evaluation, "POINTS_AT_ONCE", 50)
    pieces = evaluation.evaluate(network, reference, points, order=2, scale=(0.1, 0.2))
    for left, right in zip(whole, pieces):
        assert left.shape == (221, 1)
        assert relative_error(left, right) < 1e-5


@pytest.mark.parametrize(
    ("operator", "norm"),
    [
        ("forward", "operator"),
        ("fd", "operator"),
        ("forward", "pixel"),
        pytest.param("forward", "energy", marks=pytest.mark.soak),
        pytest.param("fd", "energy", marks=pytest.mark.soak),
    ],
)
def test_a_laplacian_leaves_the_outputs_bias_alone(operator, norm):
    """It does not carry the mean, and Adam would follow the sign of mere rounding."""
    image = np.random.default_rng(4).uniform(-1, 1, (12, 10, 3)).astype(np.float32)
    network = Siren(3, hidden_features=16, hidden_layers=1, omega_0=10)
    start = network.flat.numpy().copy()
    task = Poisson(image, operator, norm)
    loop.train(network, task, reference, 5, Adam([network.flat], 1e-2))
    moved = network.flat.numpy() - start
    assert (moved[-3:] == 0).all()
    assert (moved[:-3] != 0).all()


def test_an_interruption_of_the_reading_of_losses_records_each_once():
    def loss(epoch):
        return types.SimpleNamespace(item=lambda: float(epoch))

    def interrupted():
        raise KeyboardInterrupt

    training = Training()
    progress = Progress(training, 4, 0, 0.0)
    progress.add(0, [loss(0)], None)
    progress.add(1, [types.SimpleNamespace(item=interrupted)], None)
    with pytest.raises(KeyboardInterrupt):
        progress.fetch()
    progress.pending[1] = progress.pending[1][0], [loss(1), loss(2)]
    progress._show = lambda _: interrupted()
    with pytest.raises(KeyboardInterrupt):
        progress.fetch()
    progress.fetch()
    assert [(state.loss, state.validation) for state in training.history] == [(0, None), (1, 2)]
