"""history.png, and that it is drawn from what was measured."""

import io
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageColor

from siren.output.history import COLORS, SIZE, Axis, draw_history
from siren.training.progress import Epoch


def drawn(epochs):
    with Image.open(io.BytesIO(draw_history(epochs))) as image:
        assert (image.format, image.size) == ("PNG", SIZE)
        return np.asarray(image.convert("RGB")).astype(int)


def pixels(image, name):
    """(row, column) of the pixels in the color of a curve, or of its name above it."""
    near = np.abs(image - ImageColor.getrgb(COLORS[name])).max(axis=2) < 8
    return np.argwhere(near)


def history(validation=None, losses=(1.0, 0.1, 0.01, 0.001)):
    quality = [10.0, None, 20.0, 40.0]
    return [Epoch(i, loss, validation, quality[i], i) for i, loss in enumerate(losses)]


def test_a_loss_that_falls_by_the_same_factor_is_a_straight_line():
    rows, columns = pixels(drawn(history()), "loss").T
    on_line = rows > 60  # not the name
    slope, start = np.polyfit(columns[on_line], rows[on_line], 1)
    assert slope > 0.5  # downwards
    assert np.abs(slope * columns[on_line] + start - rows[on_line]).max() < 8


def test_each_curve_is_there_if_it_was_measured():
    name = "loss that chooses the best epoch"
    assert len(pixels(drawn(history()), name)) == 0
    assert len(pixels(drawn(history(validation=0.3)), name)) > 50
    rows, columns = pixels(drawn(history()), "PSNR in dB").T
    assert columns.min() > SIZE[0] // 2
    assert rows[columns == columns.max()].mean() < 100  # the highest value is the last


@pytest.mark.parametrize("losses", [(1.0,), (math.nan,), (0.0, math.inf), (1.0, math.nan, 0.5)])
def test_values_that_cannot_be_drawn_are_left_out(losses):
    image = drawn(history(losses=losses))
    assert (len(pixels(image, "loss")) > 0) == any(0 < loss < math.inf for loss in losses)


number = st.floats(-1e12, 1e12, allow_subnormal=False)
positive = st.floats(1e-90, 1e90, allow_subnormal=False)


@given(st.lists(number, min_size=1, max_size=9), st.lists(positive, min_size=1, max_size=9))
def test_axes_have_round_values_inside(values, positives):
    for axis in (Axis.around(values), Axis.around(positives, log=True)):
        ticks = axis.ticks()
        assert 2 <= len(ticks) <= 11
        assert all(-1e-6 <= position <= 1 + 1e-6 for position, _ in ticks)
    assert all(0 <= Axis.around(values).position(value) <= 1 for value in values)


def test_ticks_are_few():
    assert Axis.around([0.0, 2.2250738585072014e-308]).ticks()
    ticks = Axis.around([1e-7, 3.0], log=True).ticks()
    assert [value for _, value in ticks] == pytest.approx([1e-6, 1e-4, 0.01, 1])
    assert [value for _, value in Axis.around([19.0, 32.0]).ticks()] == [20, 25, 30]
