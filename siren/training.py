"""The one training loop that all tasks share."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass, field

import jittor as jt
import numpy as np
from tqdm import tqdm

from siren.coordinates import grid, spacing
from siren.metrics import psnr
from siren.optimizer import constant

LINE_EVERY = 100  # epochs between two progress lines where output is not a terminal
POINTS_AT_ONCE = 1 << 16  # bounds the memory of an evaluation


@dataclass
class Epoch:
    """State after ``epoch`` updates.

    ``validation`` is the loss on points held out, None where there are none; ``psnr`` is in dB,
    None if it was not measured.
    """

    epoch: int
    loss: float
    validation: float | None
    psnr: float | None
    seconds: float


@dataclass
class Training:
    """How a training went.

    ended    "finished", "interrupted" (Ctrl-C) or "diverged" (the loss was not finite)
    best     the epoch whose parameters the network now has: the one of lowest validation loss if
             points were held out, else of lowest loss; None where not a single loss was finite
    history  one ``Epoch`` for each loss computed
    """

    ended: str = "finished"
    best: Epoch | None = None
    history: list[Epoch] = field(default_factory=list)


def train(network, task, engine, epochs: int, optimizer, schedule=constant) -> Training:
    """Train ``network`` on ``task`` by ``epochs`` full-batch steps of ``optimizer``.

    ``schedule``, one of ``siren.optimizer``, gives the factor of the learning rate as a function
    of the share of steps done. The network ends with the parameters of lowest loss (of lowest
    validation loss where the task holds points out); the loss after the last update counts too, so
    ``epochs + 1`` losses are computed. Ctrl-C and a loss that is not finite end the loop early with
    the best parameters so far.
    """
    parameters = network.parameters()
    coordinates, target, *held_out = (
        jt.array(array).stop_grad() for array in (task.coordinates, task.target, *task.held_out)
    )
    training = Training()
    best_parameters = None
    measure_every = max(n for n in (1, 5, 10, 20, 50, LINE_EVERY) if n <= max(1, epochs // 10))

    start = time.perf_counter()
    with _Progress(epochs) as progress:
        try:
            for epoch in range(epochs + 1):
                loss_var = task.loss(network, coordinates, target, engine)
                gradients = jt.grad(loss_var, parameters)
                jt.sync([loss_var, *gradients])
                loss = loss_var.item()
                if not math.isfinite(loss):
                    training.ended = "diverged"
                    break
                validation = None
                if held_out:
                    validation = engine.squared_error(network, *held_out, order=0).item()
                quality = None
                if epoch % measure_every == 0 or epoch == epochs:
                    quality = score(task, picture(network, engine, task.reference.shape[:2]))
                seconds = time.perf_counter() - start
                state = Epoch(epoch, loss, validation, quality, seconds)
                training.history.append(state)
                if training.best is None or criterion(state) < criterion(training.best):
                    training.best = state
                    best_parameters = [p.numpy() for p in parameters]
                progress.show(state)
                if epoch < epochs:
                    optimizer.step(gradients, schedule(epoch / epochs))
        except KeyboardInterrupt:
            training.ended = "interrupted"
    for parameter, best in zip(parameters, best_parameters or []):
        parameter.update(jt.array(best))
    jt.sync(parameters)  # Jittor cannot compile a fresh one-element array into a later operation
    return training


def criterion(state: Epoch) -> float:
    """What the best epoch has least of."""
    return state.loss if state.validation is None else state.validation


def score(task, output: np.ndarray) -> float:
    """PSNR in dB of the network's picture (height, width, channels) as ``task`` scores it.

    Values count as they are, also outside [-1, 1], where a saved picture is clipped: a blend of two
    gradients often has such values.
    """
    return psnr(task.restore(output), task.reference, mask=task.scored)


def evaluate(network, engine, coordinates: np.ndarray, order: int, scale=(1.0, 1.0)):
    """The network's streams (value, gradient, Laplacian up to ``order``) at ``coordinates`` (N, 2).

    Returns a list of float32 NumPy arrays (N, channels); see ``engine.reference.streams``.
    """
    chunks = []
    with jt.no_grad():
        for first in range(0, len(coordinates), POINTS_AT_ONCE):
            points = jt.array(coordinates[first : first + POINTS_AT_ONCE])
            streams = engine.streams(network, points, order, scale)
            chunks.append([stream.numpy() for stream in streams])
    return [np.concatenate(stream) for stream in zip(*chunks)]


def picture(network, engine, shape) -> np.ndarray:
    """The network on the pixel grid of ``shape`` (height, width): (height, width, channels)."""
    (values,) = evaluate(network, engine, grid(*shape), order=0)
    return values.reshape((*shape, -1))


def derivatives(network, engine, shape):
    """The network's gradient and Laplacian on the pixel grid of ``shape``, in pixel units.

    Returns (along rows, along columns, Laplacian), each (height, width, channels).
    """
    _, *streams = evaluate(network, engine, grid(*shape), order=2, scale=spacing(*shape))
    return tuple(stream.reshape((*shape, -1)) for stream in streams)


class _Progress:
    """A bar on a terminal; elsewhere one plain line per ``LINE_EVERY`` epochs."""

    def __init__(self, epochs):
        self.epochs = epochs
        self.bar = None

    def __enter__(self):
        if sys.stderr.isatty():
            self.bar = tqdm(total=self.epochs, unit="epoch", dynamic_ncols=True)
        self.psnr = math.nan
        return self

    def __exit__(self, *_):
        if self.bar is not None:
            self.bar.close()

    def show(self, state: Epoch):
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
