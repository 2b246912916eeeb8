import math

import jittor as jt
import numpy as np
import pytest
from numpy_siren import layers_of, relative_error, value

from siren import training
from siren.coordinates import grid
from siren.engine import reference
from siren.images import read_image
from siren.network import Siren
from siren.optimizer import Adam
from siren.tasks.fit import Fit


def test_adam_is_the_published_algorithm():
    """Against Algorithm 1 of the paper in float64."""
    rng = np.random.default_rng(0)
    start = [rng.normal(size=shape) for shape in ((5, 3), (1,), (7,))]
    parameters = [jt.array(p.astype(np.float32)) for p in start]
    optimizer = Adam(parameters, learning_rate=0.01)
    theta, m, v = start, [0 * p for p in start], [0 * p for p in start]
    for t in range(1, 30):
        gradients = [rng.normal(size=p.shape) * 10.0 ** rng.integers(-6, 2) for p in start]
        optimizer.step([jt.array(g.astype(np.float32)) for g in gradients])
        jt.sync(parameters)
        for i, g in enumerate(gradients):
            m[i] = 0.9 * m[i] + 0.1 * g
            v[i] = 0.999 * v[i] + 0.001 * g**2
            m_hat, v_hat = m[i] / (1 - 0.9**t), v[i] / (1 - 0.999**t)
            theta[i] = theta[i] - 0.01 * m_hat / (np.sqrt(v_hat) + 1e-8)
    for ours, expected in zip(parameters, theta):
        np.testing.assert_allclose(ours.numpy(), expected, rtol=2e-5, atol=2e-6)


@pytest.fixture
def fit(data):
    jt.set_global_seed(0)
    return Siren(hidden_features=32), Fit(read_image(data / "camera.png", 1, (16, 20)))


def test_training_learns_and_keeps_the_best(fit):
    network, task = fit
    result = training.train(network, task, reference, epochs=150, learning_rate=1e-3)
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


def test_training_repeats_with_the_seed(data):
    def run():
        jt.set_global_seed(3)
        network = Siren(hidden_features=16)
        task = Fit(read_image(data / "camera.png", 1, (16, 20)))
        training.train(network, task, reference, epochs=5, learning_rate=1e-3)
        return layers_of(network)

    for (weight, bias), (same_weight, same_bias) in zip(run(), run()):
        assert (weight == same_weight).all()
        assert (bias == same_bias).all()


def test_divergence_ends_with_the_best_network(fit):
    network, task = fit

    class Bursting:
        """Losses that are fine three times and infinite ever after."""

        calls = 0

        def squared_error(self, *arguments, **options):
            self.calls += 1
            loss = reference.squared_error(*arguments, **options)
            return loss if self.calls <= 3 else loss / 0.0

        streams = staticmethod(reference.streams)

    result = training.train(network, task, Bursting(), epochs=50, learning_rate=1e-3)
    assert result.ended == "diverged"
    assert len(result.history) == 3
    assert result.best == min(result.history, key=lambda state: state.loss)
    assert all(np.isfinite(weight).all() for weight, _ in layers_of(network))


def test_interruption_keeps_the_best_network(fit):
    network, task = fit

    class Interrupted(Fit):
        calls = 0

        def loss(self, *arguments):
            self.calls += 1
            if self.calls == 4:
                raise KeyboardInterrupt
            return super().loss(*arguments)

    result = training.train(network, Interrupted(task.reference), reference, 50, 1e-3)
    assert result.ended == "interrupted"
    assert len(result.history) == 3
    assert result.best is not None


def test_plain_lines_where_output_is_not_a_terminal(fit, capsys):
    network, task = fit
    training.train(network, task, reference, epochs=230, learning_rate=1e-4)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["100/230", "200/230", "230/230"]
    assert all("loss" in line and "PSNR" in line and "left" in line for line in lines)
    assert "\r" not in "".join(lines)


def test_evaluation_in_pieces_is_the_whole(fit, monkeypatch):
    network, _ = fit
    points = grid(13, 17)
    whole = training.evaluate(network, reference, points, order=2, scale=(0.1, 0.2))
    monkeypatch.setattr(training, "POINTS_AT_ONCE", 50)
    pieces = training.evaluate(network, reference, points, order=2, scale=(0.1, 0.2))
    for left, right in zip(whole, pieces):
        assert left.shape == (221, 1)
        assert relative_error(left, right) < 1e-5
