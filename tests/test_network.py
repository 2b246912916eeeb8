import math

import jittor as jt
import numpy as np
import pytest
from numpy_siren import layers_of, relative_error, value
from scipy import stats

from siren.network import Siren
from siren.samples import grid, spacing


def test_grid_is_row_major_and_includes_both_ends():
    points = grid(3, 5)
    assert points.shape == (15, 2)
    assert points.dtype == np.float32
    assert points[0].tolist() == [-1, -1]
    assert points[1].tolist() == [-1, -0.5]
    assert points[5].tolist() == [0, -1]
    assert points[-1].tolist() == [1, 1]
    assert spacing(3, 5) == (1, 0.5)


@pytest.mark.parametrize(
    ("settings", "widths"),
    [
        ({}, [2, 256, 256, 256, 256, 1]),
        (
            {"out_features": 3, "hidden_features": 100, "hidden_layers": 8, "omega_0": 10.0},
            [2] + [100] * 9 + [3],
        ),
        ({"hidden_features": 64, "hidden_layers": 0}, [2, 64, 1]),
    ],
)
def test_every_layer_is_drawn_uniformly_within_its_bound(settings, widths):
    omega_0 = settings.get("omega_0", 30.0)
    layers = layers_of(Siren(**settings))
    assert [weight.shape[1] for weight, _ in layers] + [layers[-1][0].shape[0]] == widths
    for depth, (weight, bias) in enumerate(layers):
        fan_in = weight.shape[1]
        bound = 1 / fan_in if depth == 0 else math.sqrt(6 / fan_in) / omega_0
        for values, limit in ((weight.ravel(), bound), (bias, 1 / math.sqrt(fan_in))):
            assert np.abs(values).max() <= limit * (1 + 1e-6)
            assert stats.kstest(values, "uniform", (-limit, 2 * limit)).pvalue > 1e-3


@pytest.mark.parametrize(
    "settings",
    [
        {"in_features": 0},
        {"out_features": 0},
        {"hidden_features": -1},
        {"hidden_layers": -1},
        {"omega_0": 0.0},
        {"omega_0": math.inf},
        {"omega_0": math.nan},
    ],
)
def test_networks_that_there_are_not(settings):
    with pytest.raises(ValueError, match=next(iter(settings)).split("_")[-1]):
        Siren(**settings)


def test_parameters_have_to_fit_layer_by_layer():
    """As many numbers in other shapes were taken over in the wrong places."""
    network = Siren(hidden_features=8, hidden_layers=1)
    layers = [tuple(layer) for layer in network.split(network.flat.numpy())]
    transposed = [(weight.T, bias) for weight, bias in layers]
    for wrong in (transposed, layers[::-1], layers[:-1], [*layers, layers[-1]]):
        with pytest.raises(ValueError, match="do not fit"):
            network.load_layers(wrong)
    with pytest.raises(ValueError, match="do not fit"):
        Siren.from_layers([(np.zeros((4, 2)), np.zeros(4)), (np.zeros((1, 5)), np.zeros(1))], 30.0)


@pytest.mark.parametrize("channels", [1, 3])
def test_forward_pass_agrees_with_float64(channels):
    network = Siren(out_features=channels, hidden_features=64)
    points = grid(17, 9)
    expected = value(layers_of(network), 30.0, points.astype(np.float64))
    output = network(jt.array(points)).numpy()
    assert output.shape == (153, channels)
    assert output.dtype == np.float32
    assert relative_error(output, expected) < 1e-5


@pytest.mark.parametrize("hidden_layers", [3, 8])
def test_activations_are_distributed_as_the_paper_derives(hidden_layers):
    """Theorem 1.8: omega_0 z is close to standard normal, sin(omega_0 z) close to arcsine.

    The theorem leaves biases out, so they are left out of the variance.
    """
    network = Siren(hidden_features=256, hidden_layers=hidden_layers)
    h = grid(64, 64).astype(np.float64)
    for depth, (weight, bias) in enumerate(layers_of(network)[:-1]):
        z = 30 * (h @ weight.T)
        h = np.sin(z + 30 * bias)
        if depth > 0:
            assert 0.8 < z.var() < 1.2
            assert stats.kstest(h.ravel()[::97], "arcsine", (-1, 2)).statistic < 0.08


def test_it_is_a_module_as_jittor_knows_them(tmp_path):
    network = Siren(out_features=3, hidden_features=8, hidden_layers=2)
    other = Siren(out_features=3, hidden_features=8, hidden_layers=2, seed=1)
    names = [f"layers.{depth}.{kind}" for depth in range(4) for kind in ("weight", "bias")]
    assert list(network.state_dict()) == [name for name, _ in network.named_parameters()] == names
    for (name, var), array in zip(
        network.named_parameters(), network.state_dict(to="numpy").values()
    ):
        assert (var.numpy() == array).all(), name
    sizes = sum(var.numel() for _, var in network.named_parameters())
    assert sum(var.numel() for var in network.parameters()) == sizes
    x = jt.array(np.random.default_rng(0).uniform(-1, 1, (5, 2)).astype(np.float32))
    expected = network(x).numpy()

    for load in (
        lambda: other.load_state_dict(network.state_dict()),
        lambda: other.load_parameters(network.state_dict(to="numpy")),
        lambda: (network.save(str(tmp_path / "net.pkl")), other.load(str(tmp_path / "net.pkl"))),
    ):
        other.load_layers(other.split(0 * other.flat.numpy()))
        assert (other(x).numpy() == 0).all()
        load()
        assert (other(x).numpy() == expected).all()
    with pytest.raises(KeyError, match=r"layers\.9\.bias"):
        other.load_state_dict({"layers.9.bias": np.zeros(3, np.float32)})
    with pytest.raises(ValueError, match="do not fit"):
        other.load_state_dict({"layers.3.bias": np.zeros(4, np.float32)})


def test_an_optimiser_of_jittors_trains_it():
    network = Siren(hidden_features=16, hidden_layers=1)
    x = jt.array(np.random.default_rng(0).uniform(-1, 1, (64, 2)).astype(np.float32))
    target = (x[:, :1] * 0.5).stop_grad()
    optimizer = jt.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = (network(x) - target).sqr().mean()
        optimizer.step(loss)
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 10
