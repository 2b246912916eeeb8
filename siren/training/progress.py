"""The history of a training: losses are read from the device, recorded, and shown."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from siren.notebook import is_notebook, progress_bar
from siren.text import decibels, duration
from siren.training.checkpoint import State

FETCH_EVERY = 0.05  # seconds between two reads of the losses; each read waits for the GPU's queue
LINE_EVERY = 100  # epochs between two progress lines where there is no bar


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


class Progress:
    """Collects the loss Vars of each epoch and records their values in ``training`` in groups.

    On a terminal and in a notebook it shows a bar, elsewhere one plain line for every
    ``LINE_EVERY`` epochs.
    """

    def __init__(self, training: Training, epochs: int, first: float, start: float):
        self.training = training
        self.epochs = epochs
        self.first = first
        self.start = start  # as of time.perf_counter
        self.fetched = start
        self.pending: list[tuple[Epoch, list]] = []  # whose losses may still be being computed
        self.psnr = math.nan
        self.bar = None

    def __enter__(self):
        if sys.stderr.isatty() or is_notebook():
            self.bar = progress_bar(
                total=self.epochs,
                initial=self.first,
                unit="epoch",
                dynamic_ncols=True,
                bar_format="{l_bar}{bar}| {n:.0f}/{total} [{elapsed}<{remaining}{postfix}]",
            )
        return self

    def __exit__(self, *_):
        if self.bar is not None:
            self.bar.close()

    def add(self, epoch: int, losses: list, psnr: float | None) -> None:
        """Add an epoch: its loss and, if there is one, validation loss (Vars), and PSNR in dB."""
        self.pending.append((Epoch(epoch, math.nan, None, psnr, self.seconds()), losses))

    def move(self, epoch: float) -> None:
        """Move the bar to ``epoch``, which need not be a whole number."""
        if self.bar is not None:
            self.bar.update(epoch - self.bar.n)

    def seconds(self) -> float:
        """Seconds since the training began."""
        return time.perf_counter() - self.start

    def due(self) -> bool:
        """Whether it is time for the next ``fetch``."""
        return time.perf_counter() - self.fetched > FETCH_EVERY

    def fetch(self) -> None:
        """Wait for the losses of all epochs so far; record and show them."""
        # An interruption while they are read, or shown, leaves no epoch recorded twice.
        values = [[loss.item() for loss in losses] for _, losses in self.pending]
        epochs = [epoch for epoch, _ in self.pending]
        self.pending.clear()
        for epoch, (loss, *validation) in zip(epochs, values):
            epoch.loss = loss
            epoch.validation = validation[0] if validation else None
            self.training.record(epoch)
        for epoch in epochs:
            self._show(epoch)
        self.fetched = time.perf_counter()

    def _show(self, epoch: Epoch) -> None:
        if epoch.psnr is not None:
            self.psnr = epoch.psnr
        if self.bar is not None:
            self.bar.set_postfix_str(f"loss {epoch.loss:.3e}, PSNR {decibels(self.psnr)}", False)
        elif epoch.epoch and (epoch.epoch % LINE_EVERY == 0 or epoch.epoch == self.epochs):
            left = epoch.seconds / epoch.epoch * (self.epochs - epoch.epoch)
            print(
                f"epoch {epoch.epoch}/{self.epochs}  loss {epoch.loss:.3e}  "
                f"PSNR {decibels(self.psnr)}  {duration(left)} left",
                flush=True,
            )
