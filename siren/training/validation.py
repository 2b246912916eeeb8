"""Which epoch's parameters are kept: those of the lowest loss, or of the lowest validation loss.

In a training by batches that is one of the epochs whose PSNR is measured, chosen by a fixed sample
of the points held out or, where there are none, of all.
"""

from __future__ import annotations

import jittor as jt
import numpy as np

from siren.samples import Loaded, stratified
from siren.training.evaluation import SAMPLE


class Best:
    """The parameters of lowest criterion so far.

    They are compared and copied on the device, so that nothing waits for a loss. ``parameters`` has
    the shape of ``network.flat``, ``lowest`` is (1,).
    """

    def __init__(self, network):
        self.network = network
        self.parameters = jt.array(network.flat.numpy())
        self.lowest = jt.array(np.float32([np.inf]))

    def update(self, criterion) -> None:
        """Keep the present parameters if ``criterion``, a scalar Var, is below the lowest."""
        criterion = criterion.reshape((1,))
        better = criterion < self.lowest
        chosen = jt.ternary(better.broadcast(self.parameters), self.network.flat, self.parameters)
        self.parameters.update(chosen)
        self.lowest.update(jt.ternary(better, criterion, self.lowest))

    def restore(self, parameters: np.ndarray, lowest: np.ndarray) -> None:
        """Go on from the values of an earlier run."""
        self.parameters.update(jt.array(parameters))
        self.lowest.update(jt.array(lowest))

    def load_into_network(self) -> None:
        """Give the network the best parameters."""
        self.network.flat.update(jt.array(self.parameters.numpy()))
        self.network.flat.sync()

    def vars(self) -> list:
        """Both Vars."""
        return [self.parameters, self.lowest]


class Validation:
    """The loss on fixed points that are not trained on, or on a sample of those that are."""

    def __init__(self, task, engine, points):
        self.task = task
        self.engine = engine
        chosen = stratified(len(points), min(len(points), SAMPLE), 0.5)
        self.coordinates, self.target = Loaded(points).gather(chosen)

    def loss(self, network):
        """A scalar Var without history."""
        return self.task.loss(network, self.coordinates, self.target, self.engine).stop_grad()


def make_validation(task, engine, batch) -> Validation | None:
    """By what the best epoch is chosen; None for the loss of the step itself.

    A loss of all points needs no other criterion; that of a batch says little.
    """
    if task.held_out is not None:
        return Validation(task, engine, task.held_out)
    if batch is not None and task.pointwise:
        return Validation(task, engine, task.points)
    return None
