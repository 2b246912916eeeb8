"""The one training loop that all tasks share."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass, field

import jittor as jt
import numpy as np
from tqdm import tqdm

from siren import ranks
from siren.checkpoint import State
from siren.coordinates import spacing, strip
from siren.gradient import POINTS_AT_ONCE as LARGE
from siren.gradient import Gradient
from siren.metrics import psnr
from siren.optimizer import constant
from siren.points import Loaded, stratified
from siren.tasks import at

FETCH_EVERY = 0.05  # seconds between two looks at the losses, for which a GPU's queue must run dry
AGREE_EVERY = 20  # steps on GPUs after which several processes ask each other whether to stop
LINE_EVERY = 100  # epochs between two progress lines where output is not a terminal
POINTS_AT_ONCE = 1 << 16  # bounds the memory of an evaluation
SAMPLE = 1 << 16  # points of a fixed sample, where judging by all of them would take too long


@dataclass
class Epoch:
    """State after ``epoch`` updates.

    ``validation`` is the loss on the points that choose the best epoch; None where there are none,
    and, in a training by batches, where it was not measured. ``psnr`` is in dB, None if it was not
    measured.
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
    best     the epoch whose parameters the network now has: the one of lowest validation loss
             where that was measured, else of lowest loss; None where not a single loss was finite
    history  one ``Epoch`` for each loss computed
    state    of a finished training, made when asked for: continued, it ends at once
    """

    ended: str = "finished"
    best: Epoch | None = None
    history: list[Epoch] = field(default_factory=list)
    state: Callable[[], State] | None = None

    def record(self, state: Epoch) -> None:
        """Take note of ``state``, unless a loss was not finite before."""
        if self.ended == "diverged":
            return
        if not math.isfinite(state.loss):
            self.ended = "diverged"
            return
        self.history.append(state)
        if self.history[0].validation is not None and state.validation is None:
            return  # the loss of a batch says little
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
    batch=None,
) -> Training:
    """Train ``network`` on ``task`` by ``epochs`` steps of ``optimizer``.

    ``schedule``, one of ``siren.optimizer``, gives the factor of the learning rate as a function
    of the share of steps done. The network ends with the parameters of lowest loss (of lowest
    validation loss where the task holds points out); the loss after the last update counts too, so
    ``epochs + 1`` losses are computed. Ctrl-C, ``stop()`` being true and a loss that is not finite
    end the loop early with the best parameters so far.

    ``preview``, a ``siren.preview.Preview``, is shown the picture from time to time.

    ``checkpoint``, a ``siren.checkpoint.Checkpoint``, is where the state is saved from time to time
    and when the loop is stopped; if it has a state, the training goes on from there, and ends with
    the same network, bit for bit, as if it had never been interrupted.

    ``batch``, a ``siren.points.Batch``, is the subset of the points that each step looks at; None:
    all of them. The best epoch of such a training is one of those whose PSNR is measured. It is
    chosen by a fixed sample of the points held out or, where there are none, of all (unless the
    loss is one of the whole grid, which is exact in any case). The PSNR is then that of a fixed
    sample too, as it is for large pictures; ``score`` has it of all.

    Several processes (``siren.ranks``) do this together on equal tasks. They end with the same
    parameters, of which the first one, that alone measures and saves, knows the best.
    """
    gradient_of = Gradient(network, task, engine, batch)
    alone, chief = ranks.count() == 1, ranks.number() == 0
    agree_every = AGREE_EVERY if jt.flags.use_cuda else 1
    judges = _judges(task, batch) if chief else None
    pixels = None if batch is None and task.reference[..., 0].size <= LARGE else _sample(task)
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

    def state_at(epoch):
        generator = "" if task.random is None else json.dumps(task.random.bit_generator.state)
        return State(
            epoch,
            network.flat.numpy(),
            best.numpy(),
            lowest.numpy(),
            [var.numpy() for var in optimizer.state()],
            generator,
            [list(astuple(state)) for state in training.history],
            time.perf_counter() - start,
        )

    fetched = start
    pending: list[_Pending] = []
    with _Progress(epochs, first) as progress:

        def fetch():
            for state in _fetch(pending):
                training.record(state)
                progress.show(state)

        try:
            for epoch in range(first, epochs + 1):
                measured = chief and (epoch % measure_every == 0 or epoch == epochs)
                loss, gradient = gradient_of(epoch)
                validation = None
                if judges is not None and (batch is None or measured):
                    validation = task.loss(network, *judges, engine).stop_grad()
                judged = loss if judges is None else validation
                if judged is not None:
                    better = judged.reshape((1,)) < lowest
                    best.update(jt.ternary(better.broadcast(best), network.flat, best))
                    lowest.update(jt.ternary(better, judged.reshape((1,)), lowest))
                results = [loss.stop_grad()] + ([] if validation is None else [validation])
                jt.sync([*results, gradient, best, lowest])
                quality = None
                shown = chief and preview is not None and epoch % preview.every == 0
                if shown or (measured and pixels is None):
                    output = picture(network, engine, task.reference.shape[:2])
                    quality = score(task, output)
                    if shown and np.isfinite(output).all():
                        with _told("preview.png"):
                            preview.see(task.restore(output))
                elif measured:
                    quality = _sampled_score(task, network, engine, pixels)
                now = time.perf_counter()
                pending.append(_Pending(epoch, results, quality, now - start))
                # Several processes look at the same epochs, and so see the same end.
                together = epoch % agree_every == 0
                if together if not alone else quality is not None or now - fetched > FETCH_EVERY:
                    fetch()
                    fetched = time.perf_counter()
                if training.ended == "diverged" or epoch == epochs:
                    break
                optimizer.step([gradient], schedule(epoch / epochs))
                jt.sync([network.flat, *optimizer.state()])
                if not (alone or together):
                    continue
                stopped = ranks.any_of(stop is not None and stop())
                if chief and checkpoint is not None and (stopped or checkpoint.due()):
                    fetch()
                    if training.ended == "diverged":
                        break
                    with _told("the state"):
                        checkpoint.save(state_at(epoch + 1))
                if stopped:
                    training.ended = "interrupted"
                    break
        except KeyboardInterrupt:
            training.ended = "interrupted"
        fetch()
    if training.best is not None:
        network.flat.update(jt.array(best.numpy()))
        network.flat.sync()
    if training.ended == "finished":
        training.state = lambda: state_at(epochs + 1)
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


def _judges(task, batch):
    """Coordinates and targets, as Vars, of the points that choose the best epoch, or None."""
    points = task.held_out
    if points is None:
        if batch is None or not task.pointwise:
            return None
        points = task.points
    return Loaded(points).at(stratified(len(points), min(len(points), SAMPLE), 0.5))


def _sample(task) -> np.ndarray:
    """Numbers of the pixels, spread over all that are scored, by which progress is measured."""
    count = task.reference[..., 0].size
    if task.scored is None:
        return stratified(count, min(count, SAMPLE), 0.5)
    scored = np.flatnonzero(task.scored)
    return scored[stratified(len(scored), min(len(scored), SAMPLE), 0.5)]


def _sampled_score(task, network, engine, pixels: np.ndarray) -> float:
    """``score`` of some pixels (n,) alone."""
    axes = [np.linspace(-1, 1, n) for n in task.reference.shape[:2]]
    rows, columns = np.divmod(pixels, len(axes[1]))
    points = np.stack([axes[0][rows], axes[1][columns]], axis=1).astype(np.float32)
    (values,) = evaluate(network, engine, points, order=0)
    return psnr(task.restore(values, pixels), at(task.reference, pixels))


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
    return _on_grid(network, engine, shape, 0)[0]


def derivatives(network, engine, shape):
    """The network's gradient and Laplacian on the pixel grid of ``shape``, in pixel units.

    Returns (along rows, along columns, Laplacian), each (height, width, channels).
    """
    return tuple(_on_grid(network, engine, shape, 2, spacing(*shape))[1:])


def _on_grid(network, engine, shape, order: int, scale=(1.0, 1.0)) -> list[np.ndarray]:
    """Streams on the pixel grid of ``shape``, each (height, width, channels), by strips of rows."""
    height, width = shape
    at_once = max(1, POINTS_AT_ONCE // width)
    whole: list[np.ndarray] = []
    for first in range(0, height, at_once):
        last = min(height, first + at_once)
        streams = evaluate(network, engine, strip(height, width, first, last), order, scale)
        if not whole:
            whole = [np.empty((height, width, stream.shape[1]), np.float32) for stream in streams]
        for picture, stream in zip(whole, streams):
            picture[first:last] = stream.reshape((last - first, width, -1))
    return whole


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
