"""How processes end a training after the same step."""

import time

import pytest

from siren import distributed
from siren.distributed import Agreement


@pytest.fixture
def clocks(monkeypatch):
    """Two processes, this one and one three times as slow; returns how to take a step."""
    now = [0.0]
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(
        distributed, "sum_of", lambda numbers: [numbers[0] + other[0], 4 * numbers[1]]
    )
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    other = [0.0]

    def take_step(seconds, stops=False):
        now[0] += seconds
        other[0] = float(stops)

    return take_step


def steps_of_exchanges(both, take_step, seconds, count):
    """The steps after which they ask each other."""
    asked = []
    for step in range(count):
        take_step(seconds)
        if both.due(step):
            asked.append(step)
            assert not both.any_true(False)
    return asked


def test_exchanges_become_rare_where_steps_are_short(clocks):
    asked = steps_of_exchanges(Agreement(0), clocks, 1e-4, 2000)
    assert asked[:4] == [0, 4, 20, 84]
    gaps = {later - former for former, later in zip(asked[4:], asked[5:])}
    assert gaps <= {249, 250}  # 0.05 s of the mean of both processes


def test_they_ask_after_every_step_where_steps_are_long(clocks):
    assert steps_of_exchanges(Agreement(0), clocks, 1.0, 20) == list(range(20))


def test_exchanges_become_frequent_again_where_steps_become_long(clocks):
    both = Agreement(0)
    last = steps_of_exchanges(both, clocks, 1e-4, 1000)[-1]
    clocks(30.0)
    later = next(step for step in range(last + 1, last + 300) if both.due(step))
    assert not both.any_true(False)
    assert both.due(later + 1)


def test_any_of_them_stops_all(clocks):
    both = Agreement(7)
    assert not both.due(6) and both.due(7)
    clocks(0.1, stops=True)
    assert both.any_true(False)
    clocks(0.1)
    assert both.any_true(True)


def test_a_single_process_may_stop_after_every_step():
    alone = Agreement(5)
    assert alone.due(5) and alone.due(6)
    assert alone.any_true(True) and not alone.any_true(False)
    assert distributed.world_size() == 1
