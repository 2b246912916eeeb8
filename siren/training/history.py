"""What a training has computed so far: one entry for each epoch, and which of them is best."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from siren.training.checkpoint import State


@dataclass
class Epoch:
    """State after ``epoch`` updates.

    loss        of the points that the step looked at
    validation  loss of the points that choose the best epoch; None where there are none, and, in a
                training by batches, where it was not measured
    psnr        in dB, None where it was not measured
    seconds     since the training began
    """

    epoch: int
    loss: float
    validation: float | None
    psnr: float | None
    seconds: float

    @property
    def criterion(self) -> float:
        """What the best epoch has least of."""
        return self.loss if self.validation is None else self.validation


@dataclass
class Training:
    """How a training went.

    ended    "finished", "interrupted" (Ctrl-C) or "diverged" (the loss was not finite)
    best     the epoch whose parameters the network now has: the one of lowest validation loss
             where that was measured, else of lowest loss; None where not a single loss was finite
    history  one ``Epoch`` for each loss computed
    state    of a finished training, made when asked for: continued, it ends at once
    """

    ended: str = "finished"
    best: Epoch | None = None
    history: list[Epoch] = field(default_factory=list)
    state: Callable[[], State] | None = None

    def record(self, epoch: Epoch) -> None:
        """Append ``epoch``, unless a loss was not finite before."""
        if self.ended == "diverged":
            return
        if not math.isfinite(epoch.loss):
            self.ended = "diverged"
            return
        self.history.append(epoch)
        if self.history[0].validation is not None and epoch.validation is None:
            return  # the loss of a batch says little
        if self.best is None or epoch.criterion < self.best.criterion:
            self.best = epoch
