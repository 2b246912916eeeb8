"""Shows the network's picture, now and then, to a prior that follows it."""

from __future__ import annotations

import jittor as jt
import numpy as np

from siren.training.evaluation import predict_image

UPDATES = 10  # in a training; each costs a third of a pass over all pixels


class Guidance:
    """Calls ``update`` of the task's prior, if it has one that follows the picture.

    ``parameters`` (float32) are those of the picture that the prior follows, empty before the first
    one: from these, a resumed training continues bit for bit.
    """

    def __init__(self, network, task, engine, epochs: int):
        self.network, self.engine = network, engine
        self.prior = task.prior if task.prior and task.prior.follows_picture else None
        self.shape = task.points.shape
        self.every = max(1, epochs // UPDATES)
        self.parameters = np.zeros(0, np.float32)

    def __call__(self, epoch: int) -> None:
        """At the start of ``epoch``: update the prior if it is time."""
        if self.prior and epoch > 0 and epoch % self.every == 0:
            self.parameters = self.network.flat.numpy()
            self.prior.update(predict_image(self.network, self.engine, self.shape))

    def restore(self, parameters: np.ndarray) -> None:
        """Continue with a prior that follows the picture of ``parameters``; changes the network."""
        if self.prior and parameters.size:
            self.parameters = parameters
            self.network.flat.update(jt.array(parameters))
            self.prior.update(predict_image(self.network, self.engine, self.shape))
