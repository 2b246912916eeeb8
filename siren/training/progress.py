"""The losses of a training as they arrive: recorded, and shown to the user."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass

import jittor as jt
from tqdm import tqdm

from siren.training.history import Epoch, Training

FETCH_EVERY = 0.05  # seconds between two looks at the losses, for which a GPU's queue must run dry
LINE_EVERY = 100  # epochs between two progress lines where output is not a terminal


@dataclass
class _Pending:
    """An epoch whose losses are perhaps still being computed."""

    epoch: int
    losses: list  # Vars: loss, validation loss
    psnr: float | None
    seconds: float


class Progress:
    """Takes the Vars of each epoch, and hands their values to ``training`` in larger groups.

    On a terminal there is a bar, elsewhere one plain line for every ``LINE_EVERY`` epochs.
    """

    def __init__(self, training: Training, epochs: int, first: int, start: float):
        self.training = training
        self.epochs = epochs
        self.first = first
        self.start = start  # as of time.perf_counter
        self.fetched = start
        self.pending: list[_Pending] = []
        self.psnr = math.nan
        self.bar = None

    def __enter__(self):
        """Show a bar, if somebody watches."""
        if sys.stderr.isatty():
            self.bar = tqdm(total=self.epochs, initial=self.first, unit="epoch", dynamic_ncols=True)
        return self

    def __exit__(self, *_):
        """Leave the bar as it is."""
        if self.bar is not None:
            self.bar.close()

    def add(self, epoch: int, losses: list, psnr: float | None) -> None:
        """Take an epoch's loss and perhaps validation loss, Vars, and its PSNR in dB."""
        self.pending.append(_Pending(epoch, losses, psnr, self.seconds()))

    def seconds(self) -> float:
        """Since the training began."""
        return time.perf_counter() - self.start

    def due(self) -> bool:
        """Whether it is time for the next ``fetch``."""
        return time.perf_counter() - self.fetched > FETCH_EVERY

    def fetch(self) -> None:
        """Wait for the losses of all epochs so far; record and show them."""
        if self.pending:
            losses = jt.concat([v.reshape((1,)) for p in self.pending for v in p.losses], dim=0)
            values = iter(losses.numpy().tolist())
            for p in self.pending:
                loss, *validation = (next(values) for _ in p.losses)
                held_out = validation[0] if validation else None
                state = Epoch(p.epoch, loss, held_out, p.psnr, p.seconds)
                self.training.record(state)
                self._show(state)
            self.pending.clear()
        self.fetched = time.perf_counter()

    def _show(self, state: Epoch) -> None:
        if state.psnr is not None:
            self.psnr = state.psnr
        if self.bar is not None:
            self.bar.set_postfix_str(f"loss {state.loss:.3e}, PSNR {self.psnr:.2f} dB", False)
            self.bar.update(state.epoch - self.bar.n)
        elif state.epoch and (state.epoch % LINE_EVERY == 0 or state.epoch == self.epochs):
            left = state.seconds / state.epoch * (self.epochs - state.epoch)
            print(
                f"epoch {state.epoch}/{self.epochs}  loss {state.loss:.3e}  "
                f"PSNR {self.psnr:.2f} dB  {_duration(left)} left",
                flush=True,
            )


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
