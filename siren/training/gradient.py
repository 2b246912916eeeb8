"""Loss and gradient of one step over any number of points, a strip of them at a time.

Several processes (``siren.distributed``) share the points and add up their gradients.
"""

from __future__ import annotations

import jittor as jt
import numpy as np

from siren import distributed
from siren.priors import POINTS as PRIOR_POINTS
from siren.samples import Batches, DevicePoints, Selection

POINTS_AT_ONCE = 1 << 20  # coordinates and targets of more points are computed strip by strip


class Gradient:
    """Loss and gradient of ``task`` at the present parameters of ``network``.

    ``batches`` is a ``samples.Batches``, the points of each step; None: all. Memory beyond the
    compact points is bounded, except for a loss of the whole grid (``task.pointwise`` is false),
    which needs the network's values at all pixels.

    A loss of the whole grid depends on the parameters through these values only. So the values are
    computed first, then the loss and its derivative with respect to each value, and last that
    derivative is propagated back through the network. A batch skips this last part at the points
    that it leaves out.

    A loss of the whole grid is one of derivatives, which the output layer's bias does not change,
    unless it supervises pixels too (``task.determines_mean``). A mask makes the gradient with
    respect to that bias exactly 0: Adam, which normalizes gradients, would turn mere rounding
    errors into full steps.
    """

    def __init__(self, network, task, engine, batches: Batches | None = None):
        self.network = network
        self.task = task
        self.engine = engine
        self.batches = batches
        self.count = len(task.points)
        self.share = distributed.share(self.count)
        self.prior_share = distributed.share(PRIOR_POINTS)
        self.points = DevicePoints(task.points, self.share)
        self.target = self.full_batch = self.mask = None
        if not (task.pointwise or task.determines_mean):
            mask = np.ones(network.flat.shape, np.float32)
            mask[-network.out_features :] = 0
            self.mask = jt.array(mask).stop_grad()
        self.own = Selection(self.share.start, len(self.share))  # the points of this process
        if batches is None and self.count <= POINTS_AT_ONCE and distributed.world_size() == 1:
            self.full_batch = engine.gather(self.points, self.own)
        elif not task.pointwise:
            self.target = self._all_gather([engine.gather(self.points, self.own).target])

    def __call__(self, step: int):
        """(loss, gradient) of that step: Vars (1,) and of the shape of ``network.flat``.

        The gradient is the whole one. Of the loss it is this process's part: the sum over processes
        is left to those who need it, since it takes as long as the gradient's.
        """
        loss, gradient = self._compute(step)
        return loss, gradient if self.mask is None else gradient * self.mask

    def _compute(self, step):
        if self.full_batch is not None:
            return self._of_batch(self.full_batch)
        total, selection = self.count, self.own
        if self.batches is not None:
            batch = self.batches.select(self.count, step)
            total, selection = len(batch), batch.within(self.share)
        compute = self._pointwise if self.task.pointwise else self._whole_grid
        loss, gradient = compute(selection, total)
        if distributed.world_size() > 1:
            gradient = distributed.all_reduce(gradient)
            gradient.sync()  # before any other sum: all processes need the same order
        return loss, gradient

    def _gather(self, selection, total):
        return self.engine.gather(self.points, selection, len(selection) / total)

    def _gradient(self, loss):
        return self.engine.gradient(loss, self.network)

    def _of_batch(self, batch):
        """Loss and gradient of a step whose points here are all in one batch."""
        loss = self.task.loss(self.network, batch, self.engine)
        if self.task.prior is not None:
            loss = self.task.prior(self.network, self.engine, self.prior_share, loss)
        return loss, self._gradient(loss)

    def _pointwise(self, selection, total):
        if 0 < len(selection) <= POINTS_AT_ONCE:
            return self._of_batch(self._gather(selection, total))
        parts = [] if len(selection) else [jt.zeros((1,)), jt.zeros(self.network.flat.shape)]
        for strip in selection.strips(POINTS_AT_ONCE):
            loss = self.task.loss(self.network, self._gather(strip, total), self.engine)
            parts = _add(parts, [loss, self._gradient(loss)])
        if self.task.prior is not None:
            term = self.task.prior(self.network, self.engine, self.prior_share)
            parts = _add(parts, [term, self._gradient(term)])
        return parts

    def _whole_grid(self, selection, total):
        predicted = self._predict_all()
        loss = self.task.residual_loss(predicted, self.target)
        (cotangent,) = jt.grad(loss, [predicted])
        cotangent = cotangent.stop_grad() * (self.count / total)
        loss = loss.stop_grad() / distributed.world_size()  # every process computes all of it
        jt.sync([loss, cotangent])
        parts = [] if len(selection) else [jt.zeros(self.network.flat.shape)]
        for strip in selection.strips(POINTS_AT_ONCE):
            coordinates = self.engine.gather(self.points, strip).coordinates
            predicted = self.task.predict(self.network, coordinates, self.engine)
            indices = jt.array(strip.indices().astype(np.int32))
            weighted = (predicted * cotangent[indices]).sum()
            parts = _add(parts, [self._gradient(weighted)])
        return loss, parts[0]

    def _predict_all(self):
        """What the task predicts at all points: a Var that does not depend on the parameters."""
        parts = []
        for strip in self.own.strips(POINTS_AT_ONCE):
            coordinates = self.engine.gather(self.points, strip).coordinates
            predicted = self.task.predict(self.network, coordinates, self.engine).stop_grad()
            predicted.sync()
            parts.append(predicted)
        return self._all_gather(parts).start_grad()

    def _all_gather(self, parts):
        """One Var of all points, from each process's ``parts`` of its share."""
        if distributed.world_size() > 1:
            first, last = self.share.start, self.share.stop
            shape = parts[0].shape[1:]
            parts = [jt.zeros((first, *shape)), *parts, jt.zeros((self.count - last, *shape))]
            parts = [part for part in parts if part.shape[0]]
        return distributed.all_reduce(jt.concat(parts, dim=0))


def _add(sums, terms):
    """Add ``terms`` to ``sums``, which is empty at first; synced to free the memory of a strip."""
    sums = [a + b for a, b in zip(sums, terms)] if sums else [term.clone() for term in terms]
    jt.sync(sums)
    return sums
