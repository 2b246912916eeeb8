"""The best parameters of a training: those of the lowest loss, or of the lowest validation loss.

A validation loss is that of a fixed sample of the held-out points. Without held-out points, it is
that of a fixed sample of all points where the loss of a step is too noisy a criterion: with batches
or a prior at random points. It is then measured at the epochs whose PSNR is measured.
"""

from __future__ import annotations

import jittor as jt
import numpy as np

from siren.samples import DevicePoints, stratified
from siren.training.evaluation import SAMPLE_OF_BATCHES


class Best:
    """The parameters with the lowest criterion so far.

    Comparing and copying happen on the device, so that the host never waits for a loss.
    ``parameters`` has the shape of ``network.flat``, ``lowest`` is (1,).
    """

    def __init__(self, network):
        self.network = network
        self.parameters = jt.array(network.flat.numpy())
        self.lowest = jt.array(np.float32([np.inf]))

    def update(self, criterion) -> None:
        """Keep the present parameters if ``criterion``, a Var (1,), is below the lowest."""
        better = criterion < self.lowest
        chosen = jt.ternary(better.broadcast(self.parameters), self.network.flat, self.parameters)
        self.parameters.update(chosen)
        self.lowest.update(jt.ternary(better, criterion, self.lowest))

    def restore(self, parameters: np.ndarray, lowest: np.ndarray) -> None:
        """Continue from the values of an earlier run."""
        self.parameters.update(jt.array(parameters))
        self.lowest.update(jt.array(lowest))

    def load_into_network(self) -> None:
        """Copy the best parameters into the network."""
        self.network.flat.update(jt.array(self.parameters.numpy()))
        self.network.flat.sync()

    def vars(self) -> list:
        """The Vars that ``update`` changes."""
        return [self.parameters, self.lowest]


class Validation:
    """The loss on a fixed sample of ``points``, without the prior."""

    def __init__(self, task, engine, points):
        self.task = task
        self.engine = engine
        sample = stratified(len(points), min(len(points), SAMPLE_OF_BATCHES), 0.5)
        self.batch = DevicePoints(points).gather(sample)

    def loss(self, network):
        """The loss as a scalar Var, without gradient."""
        with jt.no_grad():
            return self.task.loss(network, self.batch, self.engine)


def make_validation(task, engine, batches) -> Validation | None:
    """The loss that chooses the best epoch; None: the loss of the step itself.

    The loss of all points without a prior needs no other criterion.
    """
    if task.held_out is not None:
        return Validation(task, engine, task.held_out)
    if task.pointwise and (batches is not None or task.prior is not None):
        return Validation(task, engine, task.points)
    return None
