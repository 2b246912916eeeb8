"""Means over any number of values, against what they have to be."""

import types

import jittor as jt
import numpy as np
import pytest

from siren import losses
from siren.engine import reference
from siren.samples import Batch

COUNT = 2**25  # where one float32 holds half of the sum, or less
VALUE = np.float32(0.3)


@pytest.fixture(scope="module")
def equal_numbers():
    return jt.ones((COUNT, 1, 1)) * float(VALUE)


def test_a_mean_is_exact_for_many_values_and_differentiable(equal_numbers):
    assert losses.exact_mean(equal_numbers).item() == pytest.approx(VALUE, rel=1e-6)
    slope = jt.grad(losses.exact_mean(equal_numbers), equal_numbers)
    assert slope.dtype == "float32"
    assert slope[:4].numpy() == pytest.approx(1 / COUNT, rel=1e-6)


def test_losses_are_exact_for_many_values(equal_numbers):
    square = float(VALUE) ** 2
    assert losses.OperatorNorm()(equal_numbers).item() == pytest.approx(square, rel=1e-5)
    batch = Batch(jt.zeros((COUNT, 2)), jt.zeros((COUNT, 1, 1)))
    one_channel, streams = types.SimpleNamespace(out_features=1), [equal_numbers[:, 0]]
    loss = reference.squared_error(one_channel, batch, 0, compute_streams=lambda *_: streams)
    assert loss.item() == pytest.approx(square, rel=1e-5)
