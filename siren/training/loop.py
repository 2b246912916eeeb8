"""The training loop that all tasks share."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from dataclasses import astuple

import jittor as jt
import numpy as np

from siren import distributed
from siren.samples import steps_per_pass
from siren.training.checkpoint import Checkpoint, State, StateError
from siren.training.evaluation import (
    make_validation,
    predict_image,
    sample_pixels,
    sampled_score,
    score,
)
from siren.training.gradient import POINTS_AT_ONCE as LARGE
from siren.training.gradient import Gradient
from siren.training.optimizer import constant
from siren.training.progress import LINE_EVERY, Epoch, Progress, Training

GUIDANCE_UPDATES = 10  # in a training; each costs a third of a pass over all pixels


def train(
    network,
    task,
    engine,
    epochs: int,
    optimizer,
    schedule=constant,
    checkpoint: Checkpoint | None = None,
    stop=lambda: False,
    preview=None,
    batches=None,
) -> Training:
    """Train ``network`` on ``task`` in ``epochs`` passes over its points, by ``optimizer``.

    schedule    one of those in ``siren.training.optimizer``, of the share of steps done
    checkpoint  where the state is saved, from time to time and when the loop is stopped. If it has
                a state, training continues from it, and ends with the same network, bit for bit, as
                without the interruption. Raises StateError if it does not fit.
    stop        called after every step; true ends the loop early
    preview     a ``siren.output.history.Preview``, updated every ``preview.every`` epochs
    batches     a ``siren.samples.Batches``, which cuts each pass into steps; None: a pass is one
                step on all points

    The network gets its best parameters at the end (``siren.training.evaluation``). At the start of
    each epoch the loss of its first step is recorded; the loss after the last update counts too, so
    there are ``epochs + 1`` losses. Ctrl-C, ``stop`` and a loss that is not finite end the loop
    early. Several processes train together, each on its share of the points, and have the same
    parameters after every step; rank 0 alone measures and saves, and knows the best parameters.
    """
    steps = steps_per_pass(len(task.points), batches)
    last = epochs * steps
    compute_gradient = Gradient(network, task, engine, batches)
    run = _Run(network, task, engine, optimizer, epochs)
    first = run.restore(checkpoint, last, steps) if checkpoint and checkpoint.state else 0
    record = _Record(run, engine, epochs, preview, batches)
    with Progress(run.training, epochs, first / steps, run.start) as progress:
        try:
            for step in range(first, last + 1):
                if step % steps == 0:
                    run.guidance(step // steps)
                loss, gradient = compute_gradient(step)
                if step % steps == 0:
                    progress.add(*record(step // steps, loss))
                jt.sync([gradient])
                # Several processes read losses after the same steps, so that they stop together.
                if run.agreement.due(step) and (distributed.world_size() > 1 or progress.due()):
                    progress.fetch()
                if run.training.ended == "diverged" or step == last:
                    break
                optimizer.step([gradient], schedule(step / last))
                jt.sync([network.flat, *optimizer.vars()])
                if _save_or_stop(run, step, checkpoint, stop, progress):
                    break
                progress.move((step + 1) / steps)
        except KeyboardInterrupt:
            run.training.ended = "interrupted"
        progress.fetch()
    return run.finish(last)


class _Run:
    """Everything that changes during a training; converts from and to a ``State``."""

    def __init__(self, network, task, engine, optimizer, epochs: int):
        self.network, self.task, self.optimizer = network, task, optimizer
        self.guidance = Guidance(network, task, engine, epochs)
        self.vars = {  # of a state, by name
            "flat": network.flat,
            "best": jt.array(network.flat.numpy()),
            "lowest": _infinity(),
            **{f"optimizer_{index}": var for index, var in enumerate(optimizer.vars())},
        }
        self.training = Training()
        self.agreement = distributed.Agreement(0)
        self.start = time.perf_counter()

    def restore(self, checkpoint: Checkpoint, last: int, steps: int) -> int:
        """Continue from a state, of a training up to step ``last`` in passes of ``steps`` each.

        Returns the next step. Raises StateError if the state does not fit.
        """
        state = checkpoint.state
        shapes = {name: array.shape for name, array in state.arrays.items()}
        expected = {name: tuple(var.shape) for name, var in self.vars.items()}
        if not (
            state.step <= last + 1
            and state.epoch == -(-state.step // steps)
            and shapes.pop("guide", None) in ((0,), expected["flat"])
            and shapes == expected
            and bool(state.random) == (self.task.random is not None)
        ):
            raise StateError(f"{checkpoint.path} is damaged (it does not fit this training)")
        if self.guidance.prior and state.arrays["guide"].size:
            self.network.flat.update(jt.array(state.arrays["guide"]))
            self.guidance.update()
        for name, var in self.vars.items():
            var.update(jt.array(state.arrays[name]))
        # Jittor cannot compile a fresh one-element array into a later operation.
        jt.sync(list(self.vars.values()))
        self.optimizer.n_step = state.step
        if self.task.random is not None:
            self.task.random.bit_generator.state = json.loads(state.random)
        for entry in state.history:
            self.training.record(Epoch(*entry))
        self.agreement = distributed.Agreement(state.step)
        self.start -= state.seconds
        return state.step

    def make_state(self, step: int) -> State:
        """The state from which ``restore`` continues with ``step``."""
        arrays = {name: var.numpy() for name, var in self.vars.items()}
        arrays["guide"] = self.guidance.parameters
        random = self.task.random
        return State(
            step,
            arrays,
            "" if random is None else json.dumps(random.bit_generator.state),
            [list(astuple(state)) for state in self.training.history],
            time.perf_counter() - self.start,
        )

    def update_best(self, criterion) -> None:
        """Keep the present parameters as the best if ``criterion``, a Var (1,), is the lowest.

        Comparing and copying happen on the device, so that the host never waits for a loss.
        """
        best, lowest = self.vars["best"], self.vars["lowest"]
        better = criterion < lowest
        best.update(jt.ternary(better.broadcast(best), self.network.flat, best))
        lowest.update(jt.ternary(better, criterion, lowest))

    def finish(self, last: int) -> Training:
        """Load the best parameters into the network; returns the ``Training``."""
        if self.training.best is not None:
            self.network.flat.update(jt.array(self.vars["best"].numpy()))
            self.network.flat.sync()
        if self.training.ended == "finished":
            self.training.state = lambda: self.make_state(last + 1)
        return self.training


def _infinity():
    """A Var (1,) of infinity. For an array of one number Jittor would compile an operation."""
    var = jt.empty((1,)).stop_grad()
    var.data = np.float32([np.inf])
    return var


class Guidance:
    """Shows the network's picture, now and then, to a prior that follows it, if the task has one.

    ``parameters`` (float32) are those of the picture that the prior follows, empty before the first
    one: from these, a resumed training continues bit for bit.
    """

    def __init__(self, network, task, engine, epochs: int):
        self.network, self.engine = network, engine
        self.prior = task.prior if task.prior and task.prior.follows_picture else None
        self.shape = task.points.shape
        self.every = max(1, epochs // GUIDANCE_UPDATES)
        self.parameters = np.zeros(0, np.float32)

    def __call__(self, epoch: int) -> None:
        """At the start of ``epoch``: update the prior if it is time."""
        if self.prior and epoch > 0 and epoch % self.every == 0:
            self.update()

    def update(self) -> None:
        """Have the prior follow the network's present picture."""
        self.parameters = self.network.flat.numpy()
        self.prior.update(predict_image(self.network, self.engine, self.shape))


class _Record:
    """What is measured at the start of an epoch: losses, the best parameters, PSNR, preview.

    The PSNR is measured at some epochs, by rank 0. It is that of all pixels; of a sample in a
    training by batches or on few points, where all would take long, and on a large picture.
    """

    def __init__(self, run: _Run, engine, epochs: int, preview, batches):
        self.run, self.network, self.task = run, run.network, run.task
        self.engine, self.epochs, self.preview = engine, epochs, preview
        self.root = distributed.rank() == 0
        self.every = max(n for n in (1, 2, 5, 10, 20, 50, LINE_EVERY) if n <= max(1, epochs // 10))
        pixels = self.task.reference[..., 0].size
        short = batches is not None or 2 * len(self.task.points) < pixels  # a step or a pass
        self.pixels = None
        if short or pixels > LARGE:
            self.pixels = sample_pixels(self.task, short)
        self.validation = make_validation(self.task, engine, batches) if self.root else None
        self.validates_all = batches is None and self.task.held_out is not None

    def __call__(self, epoch: int, loss) -> tuple[int, list, float | None]:
        """Update the best parameters; returns what ``Progress.add`` takes.

        ``loss`` is this process's part of it.
        """
        losses = [distributed.all_reduce(loss.stop_grad())]
        if self.validation and (self.validates_all or self._due(epoch)):
            losses.append(self.validation(self.network))
        if not self.validation or len(losses) == 2:
            self.run.update_best(losses[-1])
        jt.sync([*losses, self.run.vars["best"], self.run.vars["lowest"]])
        return epoch, losses, self._psnr(epoch)

    def _due(self, epoch: int) -> bool:
        return self.root and (epoch % self.every == 0 or epoch == self.epochs)

    def _psnr(self, epoch: int) -> float | None:
        """PSNR in dB after ``epoch`` passes, None if it is not measured; updates the preview."""
        refresh = self.root and self.preview is not None and epoch % self.preview.every == 0
        if refresh or (self._due(epoch) and self.pixels is None):
            output = predict_image(self.network, self.engine, self.task.reference.shape[:2])
            if refresh and np.isfinite(output).all():
                with _warn_on_failure("preview.png"):
                    self.preview.update(self.task.restore(output))
            return score(self.task, output)
        if self._due(epoch):
            return sampled_score(self.task, self.network, self.engine, self.pixels)
        return None


def _save_or_stop(run: _Run, step: int, checkpoint, stop, progress: Progress) -> bool:
    """Save the state if it is time; returns whether the loop ends after ``step``."""
    if not run.agreement.due(step):
        return False
    stopped = run.agreement.any_true(stop())
    if distributed.rank() == 0 and checkpoint is not None and (stopped or checkpoint.due()):
        progress.fetch()
        if run.training.ended == "diverged":
            return True
        with _warn_on_failure("the state"):
            checkpoint.save(run.make_state(step + 1))
    if stopped:
        run.training.ended = "interrupted"
    return stopped


@contextlib.contextmanager
def _warn_on_failure(what: str):
    """Turn an OSError into a warning: a file that cannot be written does not end a training."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        print(f"Cannot write {what} ({reason}); training goes on.", file=sys.stderr)
