"""Loss and gradient of one step, over as many points as there are: a strip of them at a time.

Several processes (``siren.distributed``) share the points, and add up what they find.
"""

from __future__ import annotations

import jittor as jt
import numpy as np

from siren import distributed
from siren.priors import POINTS as PRIOR_POINTS
from siren.samples import Batch, Loaded

POINTS_AT_ONCE = 1 << 20  # coordinates and targets of more points are made anew, strip by strip


class Gradient:
    """Loss and gradient of ``task`` at the present parameters of ``network``.

    ``batch`` says which points a step looks at; None: all of them. Either way memory beyond the
    compact points is bounded, except for losses of the grid as a whole (``task.pointwise`` is
    false), which need the network's values on all of it.

    A loss of the whole grid depends on the parameters through these values alone. So they are
    computed first, then the loss and its derivative by each of them, and at last that derivative is
    carried back through the network. A batch saves the last part at the points that it leaves out.

    Such a loss is of derivatives, and none of the output's bias. Its gradient by that is exactly 0
    here: what rounding would make of it is enough for Adam, which looks at signs.
    """

    def __init__(self, network, task, engine, batch: Batch | None = None):
        self.network = network
        self.task = task
        self.engine = engine
        self.batch = batch
        self.count = len(task.points)
        self.share = distributed.share(self.count)
        self.points = Loaded(task.points, self.share)
        self.target = self.everything = self.mask = None
        if not task.pointwise:
            mask = np.ones(network.flat.shape, np.float32)
            mask[-network.out_features :] = 0
            self.mask = jt.array(mask).stop_grad()
        if batch is None and self.count <= POINTS_AT_ONCE and distributed.world_size() == 1:
            self.everything = self.points.gather(np.arange(self.count))
        elif not task.pointwise:
            self.target = self._gather([self.points.gather(np.arange(*_ends(self.share)))[1]])

    def __call__(self, step: int):
        """(loss, gradient) as Vars, a scalar and the shape of ``network.flat``, for that step."""
        loss, gradient = self._compute(step)
        return loss, gradient if self.mask is None else gradient * self.mask

    def _compute(self, step):
        share = distributed.share(PRIOR_POINTS)
        prior = self.task.prior and self.task.prior(self.network, self.engine, share)
        if self.everything is not None:
            loss = self.task.loss(self.network, *self.everything, self.engine)
            loss = loss if prior is None else loss + prior
            return loss, self._gradient(loss)
        total, indices = self.count, self.share
        if self.batch is not None:
            total, drawn = self.batch.points, self.batch.indices(self.count, step)
            indices = drawn[slice(*np.searchsorted(drawn, _ends(self.share)))]
        compute = self._mean_over_points if self.task.pointwise else self._of_the_grid
        loss, gradient = compute(indices, total)
        if prior is not None:
            loss, gradient = loss + prior, gradient + self._gradient(prior)
        if distributed.world_size() == 1:
            return loss, gradient
        both = distributed.all_reduce(jt.concat([gradient, loss.reshape((1,))], dim=0))
        both.sync()
        return both[-1:], both[:-1]

    def _gradient(self, loss):
        return jt.grad(loss, [self.network.flat])[0]

    def _mean_over_points(self, indices, total):
        parts = [jt.zeros((1,)), jt.zeros(self.network.flat.shape)] if len(indices) == 0 else []
        for strip in _strips(indices):
            part = self.task.loss(self.network, *self.points.gather(strip), self.engine)
            share = len(strip) / total
            parts = _add(parts, [share * part, share * self._gradient(part)])
        return parts

    def _of_the_grid(self, indices, total):
        predicted = self._predicted()
        loss = self.task.residual_loss(predicted, self.target)
        (slope,) = jt.grad(loss, [predicted])
        slope = slope.stop_grad() * (self.count / total)
        loss = loss.stop_grad() / distributed.world_size()  # all of them have the whole one
        jt.sync([loss, slope])
        parts = [jt.zeros(self.network.flat.shape)] if len(indices) == 0 else []
        for strip in _strips(indices):
            coordinates, _ = self.points.gather(strip)
            predicted = self.task.predict(self.network, coordinates, self.engine)
            carried = (predicted * slope[jt.array(strip.astype(np.int32))]).sum()
            parts = _add(parts, [self._gradient(carried)])
        return loss, parts[0]

    def _predicted(self):
        """What the task predicts at all points, as a Var without history."""
        parts = []
        for strip in _strips(self.share):
            coordinates, _ = self.points.gather(strip)
            predicted = self.task.predict(self.network, coordinates, self.engine).stop_grad()
            predicted.sync()
            parts.append(predicted)
        return self._gather(parts).start_grad()

    def _gather(self, parts):
        """All processes' ``parts`` of their shares of the points, as one Var."""
        if distributed.world_size() > 1:
            first, last = _ends(self.share)
            shape = parts[0].shape[1:]
            parts = [jt.zeros((first, *shape)), *parts, jt.zeros((self.count - last, *shape))]
            parts = [part for part in parts if part.shape[0]]
        return distributed.all_reduce(jt.concat(parts, dim=0))


def _ends(share: range) -> tuple[int, int]:
    return share.start, share.stop


def _strips(indices):
    """``indices``, an array or a range of any length, in arrays."""
    for first in range(0, len(indices), POINTS_AT_ONCE):
        strip = indices[first : first + POINTS_AT_ONCE]
        yield np.arange(*_ends(strip)) if isinstance(strip, range) else strip


def _add(sums, terms):
    """``sums``, none at first, with ``terms`` added; computed at once, so that a strip is freed."""
    sums = [a + b for a, b in zip(sums, terms)] if sums else [term.clone() for term in terms]
    jt.sync(sums)
    return sums
