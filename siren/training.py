"""The one training loop that all tasks share."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from dataclasses import astuple, dataclass, field

import jittor as jt
import numpy as np
from tqdm import tqdm

from siren.checkpoint import State
from siren.coordinates import grid, spacing
from siren.metrics import psnr
from siren.optimizer import constant

FETCH_EVERY = 0.05  # seconds between two looks at the losses, for which a GPU's queue must run dry
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

    def record(self, state: Epoch) -> None:
        """Take note of ``state``, unless a loss was not finite before."""
        if self.ended == "diverged":
            return
        if not math.isfinite(state.loss):
            self.ended = "diverged"
            return
        self.history.append(state)
        if self.best is None or criterion(state) < criterion(self.best):
            self.best = state


def train(
    network,
    task,
    engine,
    epochs: int,
    optimizer,
    schedule=constant,
    checkpoint=None,
    stop=None,
    preview=None,
) -> Training:
    """Train ``network`` on ``task`` by ``epochs`` full-batch steps of ``optimizer``.

    ``schedule``, one of ``siren.optimizer``, gives the factor of the learning rate as a function
    of the share of steps done. The network ends with the parameters of lowest loss (of lowest
    validation loss where the task holds points out); the loss after the last update counts too, so
    ``epochs + 1`` losses are computed. Ctrl-C, ``stop()`` being true and a loss that is not finite
    end the loop early with the best parameters so far.

    ``preview``, a ``siren.preview.Preview``, is shown the picture from time to time.

    ``checkpoint``, a ``siren.checkpoint.Checkpoint``, is where the state is saved from time to time
    and when the loop is stopped; if it has a state, the training goes on from there, and ends with
    the same network, bit for bit, as if it had never been interrupted.
    """
    coordinates, target, *held_out = (
        jt.array(array).stop_grad() for array in (task.coordinates, task.target, *task.held_out)
    )
    training = Training()
    best = jt.array(network.flat.numpy())
    lowest = jt.array(np.float32([np.inf]))
    first = 0
    start = time.perf_counter()
    if checkpoint is not None and checkpoint.state is not None:
        state = checkpoint.state
        network.flat.update(jt.array(state.flat))
        best.update(jt.array(state.best))
        lowest.update(jt.array(state.lowest))
        optimizer.restore(state.optimizer, state.epoch)
        if task.random is not None:
            task.random.bit_generator.state = json.loads(state.random)
        for entry in state.history:
            training.record(Epoch(*entry))
        first = state.epoch
        start -= state.seconds
    # Jittor cannot compile a fresh one-element array into a later operation.
    jt.sync([network.flat, best, lowest, *optimizer.state()])
    measure_every = max(n for n in (1, 5, 10, 20, 50, LINE_EVERY) if n <= max(1, epochs // 10))

    def save(epoch):
        generator = "" if task.random is None else json.dumps(task.random.bit_generator.state)
        state = State(
            epoch,
            network.flat.numpy(),
            best.numpy(),
            lowest.numpy(),
            [var.numpy() for var in optimizer.state()],
            generator,
            [list(astuple(state)) for state in training.history],
            time.perf_counter() - start,
        )
        with _told("the state"):
            checkpoint.save(state)

    fetched = start
    pending: list[_Pending] = []
    with _Progress(epochs, first) as progress:

        def fetch():
            for state in _fetch(pending):
                training.record(state)
                progress.show(state)

        try:
            for epoch in range(first, epochs + 1):
                loss = task.loss(network, coordinates, target, engine)
                (gradient,) = jt.grad(loss, [network.flat])
                validation = None
                if held_out:
                    validation = engine.squared_error(network, *held_out, order=0)
                judged = loss if validation is None else validation
                better = judged.reshape((1,)) < lowest
                best.update(jt.ternary(better.broadcast(best), network.flat, best))
                lowest.update(jt.ternary(better, judged.reshape((1,)), lowest))
                results = [loss.stop_grad()] + ([] if validation is None else [validation])
                jt.sync([*results, gradient, best, lowest])
                quality = None
                measured = epoch % measure_every == 0 or epoch == epochs
                shown = preview is not None and epoch % preview.every == 0
                if measured or shown:
                    output = picture(network, engine, task.reference.shape[:2])
                    quality = score(task, output)
                    if shown and np.isfinite(output).all():
                        with _told("preview.png"):
                            preview.see(task.restore(output))
                now = time.perf_counter()
                pending.append(_Pending(epoch, results, quality, now - start))
                if quality is not None or now - fetched > FETCH_EVERY:
                    fetch()
                    fetched = time.perf_counter()
                if training.ended == "diverged" or epoch == epochs:
                    break
                optimizer.step([gradient], schedule(epoch / epochs))
                jt.sync([network.flat, *optimizer.state()])
                stopped = stop is not None and stop()
                if checkpoint is not None and (stopped or checkpoint.due()):
                    fetch()
                    if training.ended == "diverged":
                        break
                    save(epoch + 1)
                if stopped:
                    training.ended = "interrupted"
                    break
        except KeyboardInterrupt:
            training.ended = "interrupted"
        fetch()
    if training.best is not None:
        network.flat.update(jt.array(best.numpy()))
        network.flat.sync()
    return training


@contextlib.contextmanager
def _told(what: str):
    """A file that cannot be written is no reason to end a training."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        print(f"Cannot write {what} ({reason}); training goes on.", file=sys.stderr)


@dataclass
class _Pending:
    """An epoch whose results are perhaps still being computed."""

    epoch: int
    results: list  # loss, validation loss
    psnr: float | None
    seconds: float


def _fetch(pending: list[_Pending]) -> list[Epoch]:
    """Wait for all of ``pending``, and empty it."""
    if not pending:
        return []
    losses = jt.concat([result.reshape((1,)) for p in pending for result in p.results], dim=0)
    values = iter(losses.numpy().tolist())
    epochs = []
    for p in pending:
        loss, *validation = (next(values) for _ in p.results)
        held_out = validation[0] if validation else None
        epochs.append(Epoch(p.epoch, loss, held_out, p.psnr, p.seconds))
    pending.clear()
    return epochs


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

    def __init__(self, epochs, first):
        self.epochs = epochs
        self.first = first
        self.bar = None

    def __enter__(self):
        if sys.stderr.isatty():
            self.bar = tqdm(total=self.epochs, initial=self.first, unit="epoch", dynamic_ncols=True)
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
