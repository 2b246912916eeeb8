"""Random numbers: spread by the seed, apart for each purpose, and nobody else's."""

import jittor as jt
import numpy as np
import pytest
from numpy_siren import layers_of
from program import python

from siren.network import Siren
from siren.samples import PIXELS, PRIOR, WEIGHTS, Batches, generator


@pytest.mark.parametrize("distance", [1, 2, 7])
def test_networks_of_neighbouring_seeds_have_nothing_in_common(distance):
    # 200 pairs: the correlation of the 128 weights of the smallest layer is known to 0.006.
    count, network = 200, {"out_features": 2, "hidden_features": 64, "hidden_layers": 2}
    drawn = [layers_of(Siren(**network, seed=seed)) for seed in range(count + distance)]
    for depth in range(4):
        for kind in (0, 1):  # weights, biases
            values = np.stack([layers[depth][kind].ravel() for layers in drawn])
            pairs = values[:count].ravel(), values[distance:].ravel()
            error = 1 / np.sqrt(pairs[0].size)
            assert abs(np.corrcoef(*pairs)[0, 1]) < max(0.02, 4 * error)


def test_the_layers_of_one_network_have_nothing_in_common():
    layers = layers_of(Siren(hidden_features=256, hidden_layers=2, seed=1))
    assert abs(np.corrcoef(layers[1][0].ravel(), layers[2][0].ravel())[0, 1]) < 0.02


def test_purposes_have_nothing_in_common():
    purposes = (PIXELS, WEIGHTS, PRIOR)
    drawn = [generator(3, purpose).normal(size=10**5) for purpose in purposes]
    correlations = np.corrcoef(drawn)[np.triu_indices(3, 1)]
    assert abs(correlations).max() < 0.02


def test_batches_of_neighbouring_seeds_have_nothing_in_common():
    def first(seed):
        return set(Batches(500, seed).select(10000, 0).indices().tolist())

    shared = [len(first(seed) & first(seed + 1)) for seed in range(40)]
    assert abs(np.mean(shared) - 25) < 4  # 500 of 10000 twice: 25 by chance, give or take 5


def test_nobodys_global_generator_is_needed_or_changed():
    def draw():
        return np.random.random(3).tolist(), jt.random((3,)).numpy().tolist()

    np.random.seed(5)
    jt.set_global_seed(5)
    expected = draw()
    np.random.seed(5)
    jt.set_global_seed(5)
    network = Siren(hidden_features=16, seed=2).flat.numpy()
    assert draw() == expected
    np.testing.assert_array_equal(Siren(hidden_features=16, seed=2).flat.numpy(), network)


def test_another_process_draws_the_same_network():
    code = (
        "from siren.network import Siren; "
        "print(Siren(hidden_features=4, hidden_layers=0, seed=9).flat.numpy().tolist())"
    )
    ours = Siren(hidden_features=4, hidden_layers=0, seed=9).flat.numpy().tolist()
    assert str(ours) in python(code)
