"""Means over any number of values, against what they have to be."""

import jittor as jt
import numpy as np
import pytest

from siren import losses
from siren.engine.reference import squared_error_of_streams

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
    streams = [equal_numbers[:, 0]]
    loss = squared_error_of_streams(streams, jt.zeros((COUNT, 1, 1)), 0, 1.0)
    assert loss.item() == pytest.approx(square, rel=1e-5)
