"""Reads the losses of a training from the device, records them, and shows them."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass

import jittor as jt

from siren.notebook import is_notebook, progress_bar
from siren.training.history import Epoch, Training
from siren.training.remaining import duration, in_all
from siren.wording import decibels

FETCH_EVERY = 0.05  # seconds between two reads of the losses; each read waits for the GPU's queue
LINE_EVERY = 100  # epochs between two progress lines where there is no bar


@dataclass
class _Pending:
    """An epoch whose losses may still be being computed."""

    epoch: int
    losses: list  # Vars: loss, validation loss
    psnr: float | None
    seconds: float


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
        self.pending: list[_Pending] = []
        self.psnr = math.nan
        self.bar = None

    def __enter__(self):
        """Show a bar if stderr is a terminal or a notebook."""
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
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()

    def add(self, epoch: int, losses: list, psnr: float | None) -> None:
        """Add an epoch: its loss and, if there is one, validation loss (Vars), and PSNR in dB."""
        self.pending.append(_Pending(epoch, losses, psnr, self.seconds()))

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
        if self.pending:
            losses = jt.concat([v for p in self.pending for v in p.losses], dim=0)
            values = iter(losses.numpy().tolist())
            for p in self.pending:
                loss, *rest = (next(values) for _ in p.losses)
                validation = rest[0] if rest else None
                epoch = Epoch(p.epoch, loss, validation, p.psnr, p.seconds)
                self.training.record(epoch)
                self._show(epoch)
            self.pending.clear()
        self.fetched = time.perf_counter()

    def _show(self, epoch: Epoch) -> None:
        if epoch.psnr is not None:
            self.psnr = epoch.psnr
        if self.bar is not None:
            left = in_all(self._left(epoch)) if epoch.epoch else ""
            text = f"loss {epoch.loss:.3e}, PSNR {decibels(self.psnr)}{left}"
            self.bar.set_postfix_str(text, False)
        elif epoch.epoch and (epoch.epoch % LINE_EVERY == 0 or epoch.epoch == self.epochs):
            print(
                f"epoch {epoch.epoch}/{self.epochs}  loss {epoch.loss:.3e}  "
                f"PSNR {decibels(self.psnr)}  {duration(self._left(epoch))} left"
                f"{in_all(self._left(epoch))}",
                flush=True,
            )

    def _left(self, epoch: Epoch) -> float:
        """Seconds left of this training."""
        return epoch.seconds / epoch.epoch * (self.epochs - epoch.epoch)
