"""``--resume``: continue from the state of an interrupted run, or begin one if there is none.

Without it, rename that state.
"""

from __future__ import annotations

import argparse
import contextlib

from siren import runtime
from siren.cli.errors import DIVERGED, Interrupted, Outcome, Problem, notify
from siren.cli.inputs import Inputs
from siren.cli.options import display_path, identity_options
from siren.output.report import read_metrics
from siren.signals import Stop
from siren.text import printable
from siren.training.checkpoint import AnotherRun, Checkpoint, StateError, fingerprint


def finished_outcome(options: argparse.Namespace, pictures: Inputs) -> Outcome | None:
    """The recorded outcome if the same run has finished in this folder; else None.

    Raises Problem if the folder belongs to another run.
    """
    settings = identity_options(options)
    if options.precision == "auto":
        settings.pop("precision", None)  # "auto" depends on the device, which is not known yet
    earlier = Checkpoint(options.output_dir, settings)
    try:
        if earlier.exists():
            earlier.load()
            return None
        metrics = read_metrics(options.output_dir)
        if metrics is None or metrics["ended"] == "interrupted":
            return None
        earlier.identity["data"] = pictures.fingerprint()
        earlier.check_identity({**metrics["options"], "data": metrics["inputs"]})
    except StateError as error:
        folder = display_path(options.output_dir)
        raise Problem(
            f"--resume: {folder}: {_reason(error)}; leave it out to start anew"
        ) from error
    return Outcome(
        DIVERGED if metrics["ended"] == "diverged" else 0,
        metrics["ended"],
        metrics["psnr"],
        metrics["ssim"],
        metrics["seconds"],
    )


def report_finished_run(options: argparse.Namespace, pictures: Inputs) -> Outcome | None:
    """With ``--resume``: say that the run has finished and return its outcome; else None."""
    if not options.resume:
        return None
    outcome = finished_outcome(options, pictures)
    if outcome:
        print(f"nothing is left to resume: the run in {display_path(options.output_dir)} is done")
    return outcome


def open_checkpoint(options, device: str, task, batches, network, optimizer):
    """The ``Checkpoint`` of this run; with ``--resume`` it has the state to continue from, if any.

    Without ``--resume``, the state of an interrupted run is renamed. Raises Problem and OSError.
    """
    from siren import distributed  # imports Jittor

    root = distributed.rank() == 0
    depends_on = distributed.broadcast_object(identity(options, device, task) if root else None)
    threads = f"{distributed.world_size()} x {runtime.describe().threads}"
    checkpoint = Checkpoint(options.output_dir, depends_on, threads=threads)
    if options.resume:
        if distributed.any_true(root and checkpoint.exists()):
            _load(checkpoint, options, task, batches, network, optimizer)
        elif root:  # as in the first run of a batch system, which always passes --resume
            print(f"--resume begins a new run: {printable(checkpoint.absence())}", flush=True)
    elif root:
        renamed = checkpoint.set_aside()
        if renamed is not None:
            print(
                f"{display_path(checkpoint.path)} is of an interrupted run, which --resume would "
                f"have continued; it is now {display_path(renamed)}"
            )
    return checkpoint


def identity(options: argparse.Namespace, device: str, task) -> dict:
    """Everything that a run's network depends on."""
    held_out = [] if task.held_out is None else task.held_out.arrays()
    data = fingerprint(task.reference, *task.points.arrays(), *held_out)
    return {**identity_options(options), "device": device, "data": data}


def _load(checkpoint: Checkpoint, options, task, batches, network, optimizer) -> None:
    """Load the state of ``checkpoint``, check it, and say where the run continues."""
    from siren import distributed
    from siren.samples import steps_per_pass

    try:
        content = checkpoint.content() if distributed.rank() == 0 else b""
        state = checkpoint.load(distributed.broadcast(content))
        fits = state.fits(
            options.epochs,
            steps_per_pass(len(task.points), batches),
            network.flat.shape[0],
            [var.shape for var in optimizer.vars()],
            task.random is not None,
        )
        if not fits:
            raise StateError(f"{checkpoint.path} is damaged (it does not fit this training)")
    except StateError as error:
        raise Problem(f"--resume: {_reason(error)}; leave it out to start anew") from error
    checkpoint.state = state
    print(f"resumed at epoch {state.epoch}", flush=True)
    if state.threads not in ("", checkpoint.threads):
        print(
            f"the state was made by {state.threads} (processes x threads), this run has "
            f"{checkpoint.threads}: its network will be that of an uninterrupted run up to "
            "rounding, not bit for bit"
        )


def _reason(error: StateError) -> str:
    """Why a run cannot be continued, with the names of options as they are typed."""
    if not isinstance(error, AnotherRun):
        return str(error)
    same = "the input image is not that of the earlier run"
    return same if error.name == "data" else f"--{error}"


def interruption_message(checkpoint: Checkpoint) -> str:
    """The message for a run that was interrupted and has no results."""
    if checkpoint.written is None:
        return "interrupted; nothing was written"
    return f"interrupted; the state of epoch {checkpoint.written} is kept, and --resume goes on"


@contextlib.contextmanager
def handle_interruption(checkpoint: Checkpoint, stop: Stop):
    """Around training and saving: ``stop`` handles signals, and the user learns what is saved.

    Raises Interrupted for KeyboardInterrupt.
    """
    try:
        with stop:
            yield
    except KeyboardInterrupt:
        raise Interrupted(interruption_message(checkpoint)) from None
    except RuntimeError:
        if stop.requested:  # the signal has also reached Jittor's compiler
            raise Interrupted(interruption_message(checkpoint)) from None
        if checkpoint.written is not None:
            notify(f"the state of epoch {checkpoint.written} is kept; --resume goes on from it")
        raise
