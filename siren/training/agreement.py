"""How the processes of a training end it after the same step."""

from __future__ import annotations

import time

from siren import distributed

EVERY = 0.05  # seconds between two exchanges; each waits for the device, a millisecond on a GPU
MOST_GROWTH = 4  # of the steps between two exchanges, from one to the next


class Agreement:
    """Says after which steps the processes ask each other whether one of them wants to stop.

    These steps are the same in all processes, since all derive them from the same sum: that of the
    seconds that passed in each. A single process may stop after every step. ``first`` is the first
    step.
    """

    def __init__(self, first: int):
        self.step, self.steps = first, 1  # of the next exchange, and how many from one to the next
        self.begin = time.perf_counter()

    def due(self, step: int) -> bool:
        """Whether they ask each other after ``step``."""
        return distributed.world_size() == 1 or step >= self.step

    def any_true(self, flag: bool) -> bool:
        """Whether ``flag`` is true in any process; all must call it, after a step that is due."""
        if distributed.world_size() == 1:
            return flag
        flags, seconds = distributed.sum_of([flag, time.perf_counter() - self.begin])
        fitting = EVERY * self.steps * distributed.world_size() / max(seconds, 1e-9)
        self.steps = max(1, int(min(fitting, MOST_GROWTH * self.steps)))
        self.step += self.steps
        self.begin = time.perf_counter()
        return flags > 0
