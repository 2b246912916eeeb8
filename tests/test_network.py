import math

import jittor as jt
import numpy as np
import pytest
from numpy_siren import layers_of, relative_error, value
from scipy import stats

from siren.coordinates import grid, spacing
from siren.network import Siren


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
    jt.set_global_seed(3)
    omega_0 = settings.get("omega_0", 30.0)
    layers = layers_of(Siren(**settings))
    assert [weight.shape[1] for weight, _ in layers] + [layers[-1][0].shape[0]] == widths
    for depth, (weight, bias) in enumerate(layers):
        fan_in = weight.shape[1]
        bound = 1 / fan_in if depth == 0 else math.sqrt(6 / fan_in) / omega_0
        for values, limit in ((weight.ravel(), bound), (bias, 1 / math.sqrt(fan_in))):
            assert np.abs(values).max() <= limit * (1 + 1e-6)
            assert stats.kstest(values, "uniform", (-limit, 2 * limit)).pvalue > 1e-3


def test_seed_repeats_the_draw():
    def draw(seed):
        jt.set_global_seed(seed)
        return layers_of(Siren(hidden_features=16))[1][0]

    assert np.array_equal(draw(5), draw(5))
    assert not np.array_equal(draw(5), draw(6))


@pytest.mark.parametrize("channels", [1, 3])
def test_forward_pass_agrees_with_float64(channels):
    jt.set_global_seed(0)
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
    jt.set_global_seed(1)
    network = Siren(hidden_features=256, hidden_layers=hidden_layers)
    h = grid(64, 64).astype(np.float64)
    for depth, (weight, bias) in enumerate(layers_of(network)[:-1]):
        z = 30 * (h @ weight.T)
        h = np.sin(z + 30 * bias)
        if depth > 0:
            assert 0.8 < z.var() < 1.2
            assert stats.kstest(h.ravel()[::97], "arcsine", (-1, 2)).statistic < 0.08
