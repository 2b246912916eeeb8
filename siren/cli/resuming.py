"""``--resume``: continue from the state of an interrupted run, or begin one if there is none.

Without it, rename that state.
"""

from __future__ import annotations

import argparse
import contextlib

from siren import runtime
from siren.cli import recipes
from siren.cli.errors import DIVERGED, INTERRUPTED, Outcome, Problem, notify
from siren.cli.inputs import Inputs
from siren.cli.options import BY_NAME, display_path, identity_options
from siren.output.report import read_metrics
from siren.signals import Stop
from siren.text import printable
from siren.training.checkpoint import Checkpoint, StateError, fingerprint


def keep_choices(options: argparse.Namespace) -> argparse.Namespace:
    """A copy of ``options``; with ``--resume``, what they leave to the recipe is as in that run.

    So is a precision of fp32, if they leave that to the device. So a run of an earlier version is
    continued as it began, although its recipe or its device chose otherwise.
    """
    options = argparse.Namespace(**vars(options))
    if not options.resume:
        return options
    earlier = Checkpoint(options.output_dir, {}).earlier_identity()
    earlier = earlier or (read_metrics(options.output_dir) or {}).get("options", {})
    if options.precision == "auto" and earlier.get("precision") == "fp32":
        options.precision = "fp32"  # which every device has
    if earlier.get("recipe") != options.recipe:
        return options
    for name in recipes.CHOSEN:
        if getattr(options, name) is None and earlier.get(name) is not None:
            with contextlib.suppress(argparse.ArgumentTypeError):  # the file is damaged
                setattr(options, name, BY_NAME[name].reads["type"](str(earlier[name])))
    return options


def finished_outcome(options: argparse.Namespace, pictures: Inputs) -> Outcome | None:
    """With ``--resume``, the recorded outcome if the same run has finished in this folder.

    Else it is None. Raises Problem if the folder belongs to another run.
    """
    if not options.resume:
        return None
    settings = identity_options(options)
    if options.precision == "auto":
        settings.pop("precision", None)  # "auto" depends on the device, which is not known yet
    earlier = Checkpoint(options.output_dir, settings)
    with _about_resume(f"{display_path(options.output_dir)}: "):
        if earlier.exists():
            earlier.load()
            return None
        metrics = read_metrics(options.output_dir)
        if metrics is None or metrics["ended"] == "interrupted":
            return None
        earlier.identity["data"] = pictures.fingerprint()
        earlier.check_identity({**metrics["options"], "data": metrics["inputs"]})
    status = DIVERGED if metrics["ended"] == "diverged" else 0
    scores = (metrics[name] for name in ("psnr", "ssim", "seconds"))
    return Outcome(status, metrics["ended"], *scores)


def open_checkpoint(options, device: str, task) -> Checkpoint:
    """The ``Checkpoint`` of this run; with ``--resume`` it has the state to continue from, if any.

    Without ``--resume``, the state of an interrupted run is renamed. Raises Problem and OSError.
    """
    from siren import distributed  # imports Jittor

    root = distributed.rank() == 0
    identity = {}  # which rank 0 alone needs
    if root:
        held_out = [] if task.held_out is None else task.held_out.arrays()
        data = fingerprint(task.reference, *task.points.arrays(), *held_out)
        identity = {**identity_options(options), "device": device, "data": data}
    threads = f"{distributed.world_size()} x {runtime.describe()['threads']}"
    checkpoint = Checkpoint(options.output_dir, identity, threads=threads)
    if options.resume:
        if distributed.any_true(root and checkpoint.exists()):
            _load(checkpoint)
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


def _load(checkpoint: Checkpoint) -> None:
    """Load the state of ``checkpoint``, and say where the run continues."""
    from siren import distributed

    with _about_resume():
        state = distributed.broadcast_object(checkpoint.load() if distributed.rank() == 0 else None)
    checkpoint.state, checkpoint.written = state, state.epoch
    print(f"resumed at epoch {state.epoch}", flush=True)
    if state.threads != checkpoint.threads:
        print(
            f"the state was made by {state.threads} (processes x threads), this run has "
            f"{checkpoint.threads}: its network will be that of an uninterrupted run up to "
            "rounding, not bit for bit"
        )


@contextlib.contextmanager
def _about_resume(where: str = ""):
    """Within its context, a StateError becomes a Problem that names options as they are typed."""
    try:
        yield
    except StateError as error:
        reason = f"--{error}" if error.name else error
        if error.name == "data":
            reason = "the input image is not that of the earlier run"
        raise Problem(f"--resume: {where}{reason}; leave it out to start anew") from error


def interruption(checkpoint: Checkpoint) -> Problem:
    """What to raise when a run was interrupted and has no results."""
    kept = f"the state of epoch {checkpoint.written} is kept, and --resume goes on"
    what = "nothing was written" if checkpoint.written is None else kept
    return Problem(f"interrupted; {what}", INTERRUPTED)


@contextlib.contextmanager
def handle_interruption(checkpoint: Checkpoint, stop: Stop):
    """Around training and saving: ``stop`` handles signals, and the user learns what is saved.

    Raises Problem for KeyboardInterrupt.
    """
    try:
        with stop, _about_resume():
            yield
    except KeyboardInterrupt:
        raise interruption(checkpoint) from None
    except RuntimeError:
        if stop.requested:  # the signal has also reached Jittor's compiler
            raise interruption(checkpoint) from None
        if checkpoint.written is not None:
            notify(f"the state of epoch {checkpoint.written} is kept; --resume goes on from it")
        raise
