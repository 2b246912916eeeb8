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
from siren.training.checkpoint import Checkpoint, State
from siren.training.evaluation import predict_image, sample_pixels, sampled_score, score
from siren.training.gradient import POINTS_AT_ONCE as LARGE
from siren.training.gradient import Gradient
from siren.training.history import Epoch, Training
from siren.training.optimizer import constant
from siren.training.progress import LINE_EVERY, Progress
from siren.training.validation import Best, make_validation

AGREE_EVERY = 20  # steps on GPUs between two exchanges of processes about whether to stop


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
    batch=None,
) -> Training:
    """Train ``network`` on ``task`` by ``epochs`` steps of ``optimizer``.

    schedule    factor of the learning rate as a function of the share of steps done
                (``siren.training.optimizer``)
    checkpoint  where the state is saved, from time to time and when the loop is stopped. If it has
                a state, training continues from it, and ends with the same network, bit for bit, as
                without the interruption.
    stop        called after every step; true ends the loop early
    preview     a ``siren.output.preview.Preview``, updated every ``preview.every`` epochs
    batch       a ``siren.samples.Batch``, the points of each step; None: all points

    The network gets its best parameters at the end (``siren.training.validation``). The loss after
    the last update counts too, so ``epochs + 1`` losses are computed. Ctrl-C, ``stop`` and a loss
    that is not finite end the loop early. Several processes train together, each on its share of
    the points, and have the same parameters after every step; rank 0 alone measures and saves, and
    knows the best parameters.
    """
    compute_gradient = Gradient(network, task, engine, batch)
    run = _Run(network, task, optimizer)
    first = run.restore(checkpoint.state) if checkpoint and checkpoint.state else 0
    measure = _Measure(network, task, engine, epochs, preview, batch)
    root = distributed.rank() == 0
    validation = make_validation(task, engine, batch) if root else None
    # Jittor cannot compile a fresh one-element array into a later operation.
    jt.sync([network.flat, *run.best.vars(), *optimizer.vars()])
    with Progress(run.training, epochs, first, run.start) as progress:
        try:
            for epoch in range(first, epochs + 1):
                loss, gradient = compute_gradient(epoch)
                losses = [loss.stop_grad()]
                if validation and (batch is None or measure.due(epoch)):
                    losses.append(validation.loss(network))
                if not validation or len(losses) == 2:
                    run.best.update(losses[-1])
                jt.sync([*losses, gradient, *run.best.vars()])
                progress.add(epoch, losses, measure(epoch))
                if _is_time_to_fetch(epoch, progress):
                    progress.fetch()
                if run.training.ended == "diverged" or epoch == epochs:
                    break
                optimizer.step([gradient], schedule(epoch / epochs))
                jt.sync([network.flat, *optimizer.vars()])
                if _is_sync_epoch(epoch) and _save_or_stop(run, epoch, checkpoint, stop, progress):
                    break
        except KeyboardInterrupt:
            run.training.ended = "interrupted"
        progress.fetch()
    return run.finish(epochs)


class _Run:
    """Everything that changes during a training; converts from and to a ``State``."""

    def __init__(self, network, task, optimizer):
        self.network, self.task, self.optimizer = network, task, optimizer
        self.best = Best(network)
        self.training = Training()
        self.start = time.perf_counter()

    def restore(self, state: State) -> int:
        """Continue from ``state``; returns the next epoch."""
        self.network.flat.update(jt.array(state.flat))
        self.best.restore(state.best, state.lowest)
        self.optimizer.load_state_dict({"n_step": state.epoch, "moments": state.optimizer})
        if self.task.random is not None:
            self.task.random.bit_generator.state = json.loads(state.random)
        for entry in state.history:
            self.training.record(Epoch(*entry))
        self.start -= state.seconds
        return state.epoch

    def make_state(self, epoch: int) -> State:
        """The state from which ``restore`` continues with ``epoch``."""
        random = self.task.random
        return State(
            epoch,
            self.network.flat.numpy(),
            self.best.parameters.numpy(),
            self.best.lowest.numpy(),
            self.optimizer.state_dict()["moments"],
            "" if random is None else json.dumps(random.bit_generator.state),
            [list(astuple(state)) for state in self.training.history],
            time.perf_counter() - self.start,
        )

    def finish(self, epochs: int) -> Training:
        """Load the best parameters into the network; returns the ``Training``."""
        if self.training.best is not None:
            self.best.load_into_network()
        if self.training.ended == "finished":
            self.training.state = lambda: self.make_state(epochs + 1)
        return self.training


class _Measure:
    """PSNR and preview at some epochs, in rank 0.

    The PSNR is that of all pixels; of a sample in a training by batches or on a large picture.
    """

    def __init__(self, network, task, engine, epochs: int, preview, batch):
        self.network, self.task, self.engine = network, task, engine
        self.epochs, self.preview = epochs, preview
        self.root = distributed.rank() == 0
        self.every = max(n for n in (1, 5, 10, 20, 50, LINE_EVERY) if n <= max(1, epochs // 10))
        small = batch is None and task.reference[..., 0].size <= LARGE
        self.pixels = None if small else sample_pixels(task)

    def due(self, epoch: int) -> bool:
        """Whether to measure the PSNR after ``epoch`` updates."""
        return self.root and (epoch % self.every == 0 or epoch == self.epochs)

    def __call__(self, epoch: int) -> float | None:
        """PSNR in dB after ``epoch`` updates, None if it is not measured; updates the preview."""
        refresh = self.root and self.preview is not None and epoch % self.preview.every == 0
        if refresh or (self.due(epoch) and self.pixels is None):
            output = predict_image(self.network, self.engine, self.task.reference.shape[:2])
            if refresh and np.isfinite(output).all():
                with _warn_on_failure("preview.png"):
                    self.preview.update(self.task.restore(output))
            return score(self.task, output)
        if self.due(epoch):
            return sampled_score(self.task, self.network, self.engine, self.pixels)
        return None


def _is_sync_epoch(epoch: int) -> bool:
    """Whether processes exchange their ``stop`` after ``epoch``; rare on GPUs, which it stalls."""
    if distributed.world_size() == 1:
        return True
    return epoch % (AGREE_EVERY if jt.flags.use_cuda else 1) == 0


def _is_time_to_fetch(epoch: int, progress: Progress) -> bool:
    """Whether to read losses now; the same epochs in all processes, so that they stop together."""
    if distributed.world_size() > 1:
        return _is_sync_epoch(epoch)
    return progress.due() or progress.pending[-1].psnr is not None


def _save_or_stop(run: _Run, epoch: int, checkpoint, stop, progress: Progress) -> bool:
    """Save the state if it is time; returns whether the loop ends after ``epoch``."""
    stopped = distributed.any_true(stop())
    if distributed.rank() == 0 and checkpoint is not None and (stopped or checkpoint.due()):
        progress.fetch()
        if run.training.ended == "diverged":
            return True
        with _warn_on_failure("the state"):
            checkpoint.save(run.make_state(epoch + 1))
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
