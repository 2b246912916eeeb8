"""The history of a training: one entry for each epoch, and the best of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from siren.training.checkpoint import State


@dataclass
class Epoch:
    """Measurements after ``epoch`` passes over the training points.

    loss        on the points of the next step
    validation  loss on the points that choose the best epoch; None if there are none, or if it was
                not measured
    psnr        in dB; None if it was not measured
    seconds     since the training began
    """

    epoch: int
    loss: float
    validation: float | None
    psnr: float | None
    seconds: float

    @property
    def criterion(self) -> float:
        """What is lowest in the best epoch."""
        return self.loss if self.validation is None else self.validation


@dataclass
class Training:
    """The outcome of a training.

    ended    "finished", "interrupted" (Ctrl-C) or "diverged" (the loss was not finite)
    best     the epoch whose parameters the network has at the end: that of the lowest validation
             loss if there is one, else of the lowest loss; None if no loss was finite
    history  one ``Epoch`` for each computed loss
    state    function that returns the state of a finished training, which has no epochs left
    """

    ended: str = "finished"
    best: Epoch | None = None
    history: list[Epoch] = field(default_factory=list)
    state: Callable[[], State] | None = None

    def record(self, epoch: Epoch) -> None:
        """Append ``epoch`` and update ``best``; after a loss that is not finite, do nothing."""
        if self.ended == "diverged":
            return
        if not math.isfinite(epoch.loss):
            self.ended = "diverged"
            return
        self.history.append(epoch)
        if self.history[0].validation is not None and epoch.validation is None:
            return  # the loss of a single batch is too noisy a criterion
        if self.best is None or epoch.criterion < self.best.criterion:
            self.best = epoch
