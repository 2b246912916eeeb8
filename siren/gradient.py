"""Loss and gradient of one step, over as many points as there are: a strip of them at a time."""

from __future__ import annotations

import jittor as jt
import numpy as np

from siren.points import Batch, Loaded

POINTS_AT_ONCE = 1 << 20  # coordinates and targets of more points are made anew, strip by strip


class Gradient:
    """Loss and gradient of ``task`` at the present parameters of ``network``.

    ``batch`` says which points a step looks at; None: all of them. Either way memory beyond the
    compact points is bounded, except for losses of the grid as a whole (``task.pointwise`` is
    false), which need the network's values on all of it.

    A loss of the whole grid depends on the parameters through these values alone. So they are
    computed first, then the loss and its derivative by each of them, and at last that derivative is
    carried back through the network. A batch saves the last part at the points that it leaves out.
    """

    def __init__(self, network, task, engine, batch: Batch | None = None):
        self.network = network
        self.task = task
        self.engine = engine
        self.batch = batch
        self.points = Loaded(task.points)
        self.count = len(task.points)
        self.everything = None
        if batch is None and self.count <= POINTS_AT_ONCE:
            self.everything = self.points.at(np.arange(self.count))

    def __call__(self, step: int):
        """(loss, gradient) as Vars, a scalar and the shape of ``network.flat``, for that step."""
        prior = self.task.prior and self.task.prior(self.network, self.engine)
        if self.everything is not None:
            loss = self.task.loss(self.network, *self.everything, self.engine)
            loss = loss if prior is None else loss + prior
            return loss, self._gradient(loss)
        numbers = np.arange(self.count)
        if self.batch is not None:
            numbers = self.batch.numbers(self.count, step)
        if self.task.pointwise:
            loss, gradient = self._mean_over_points(numbers)
        else:
            loss, gradient = self._of_the_grid(numbers)
        if prior is not None:
            loss, gradient = loss + prior, gradient + self._gradient(prior)
        return loss, gradient

    def _gradient(self, loss):
        return jt.grad(loss, [self.network.flat])[0]

    def _mean_over_points(self, numbers):
        parts = []
        for strip in _strips(numbers):
            part = self.task.loss(self.network, *self.points.at(strip), self.engine)
            share = len(strip) / len(numbers)
            parts = _added(parts, [share * part, share * self._gradient(part)])
        return parts

    def _of_the_grid(self, numbers):
        seen = self._seen()
        loss = self.task.judge(seen, self.points.at(np.arange(self.count))[1])
        (slope,) = jt.grad(loss, [seen])
        slope = slope.stop_grad() * (self.count / len(numbers))
        jt.sync([loss, slope])
        parts = []
        for strip in _strips(numbers):
            coordinates, _ = self.points.at(strip)
            seen = self.task.seen(self.network, coordinates, self.engine)
            carried = (seen * slope[jt.array(strip.astype(np.int32))]).sum()
            parts = _added(parts, [self._gradient(carried)])
        return loss, parts[0]

    def _seen(self):
        """What the loss of the grid looks at, of all points, as a Var without history."""
        parts = []
        for strip in _strips(np.arange(self.count)):
            coordinates, _ = self.points.at(strip)
            seen = self.task.seen(self.network, coordinates, self.engine).stop_grad()
            seen.sync()
            parts.append(seen)
        return jt.concat(parts, dim=0).start_grad()


def _strips(numbers):
    for first in range(0, len(numbers), POINTS_AT_ONCE):
        yield numbers[first : first + POINTS_AT_ONCE]


def _added(sums, terms):
    """``sums``, none at first, with ``terms`` added; computed at once, so that a strip is freed."""
    sums = [a + b for a, b in zip(sums, terms)] if sums else [term.clone() for term in terms]
    jt.sync(sums)
    return sums
