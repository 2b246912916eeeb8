"""After the training: its results are saved, whatever happens meanwhile, and the user is told."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from siren import distributed, signals
from siren.cli.errors import DIVERGED, INTERRUPTED, Interrupted, Outcome, Problem, tell
from siren.cli.folder import unsaved
from siren.cli.identity import as_json, shown_path
from siren.cli.relevance import counted
from siren.files import Change, Lock
from siren.output import results
from siren.output.network_file import NETWORK, write_network
from siren.training.checkpoint import Checkpoint


def finish(
    options: argparse.Namespace, lock: Lock, origin, task, network, engine, result, preview, ours
) -> Outcome:
    """Save the ``result`` of a training in its folder and say what came of it.

    origin   hash and depth of the pictures (``inputs.Origin``)
    ours     the run's ``Checkpoint``: it stays where the run can go on

    Raises Interrupted, Failure, and the first error in what is made of the network.
    """
    if distributed.rank() > 0:
        return Outcome(0, result.ended)
    if result.best is None:
        raise _nothing_to_save(options, result, ours)
    facts = {
        "options": {name: as_json(value) for name, value in counted(options).items()},
        "inputs": origin.fingerprint,
    }
    change = Change(options.output_dir)
    try:
        with change:
            saved = results.prepare(
                change, lock, facts, origin.bits, task, network, engine, result, preview
            )
            with signals.held_back():
                change.commit()
                if result.ended != "interrupted":
                    ours.remove()
    except OSError as error:
        raise unsaved(options, error, _rescue(result, ours, task, network, origin)) from error
    except KeyboardInterrupt:
        if not change.committed:
            how = _rescue(result, ours, task, network, origin)
            raise Interrupted(f"interrupted while the results were saved{how}") from None
        raise Interrupted("interrupted; all results are written") from None
    _print_scores(options, task, result, saved)
    if saved.problems:
        raise saved.problems[0]
    status = _status(result, ours)
    score = saved.score
    return Outcome(status, result.ended, score.psnr, score.ssim, result.history[-1].seconds)


def _nothing_to_save(options: argparse.Namespace, result, ours: Checkpoint) -> Exception:
    """Why there is no network: the training was interrupted at once, or never had a loss."""
    if result.ended == "interrupted":
        return Interrupted(interrupted(ours))
    return Problem(
        "the loss is not finite from the start; try a smaller --omega_0"
        + (" or --prior_weight" if getattr(options, "prior", "none") != "none" else "")
    )


def interrupted(ours: Checkpoint) -> str:
    """What to tell of a run that was interrupted and has no results."""
    if ours.written is None:
        return "interrupted; nothing was written"
    return f"interrupted; the state of epoch {ours.written} is kept, and --resume goes on"


def _rescue(result, ours: Checkpoint, task, network, origin) -> str:
    """Keep what can be kept of a network whose results cannot be written; says how."""
    with signals.held_back():
        try:
            if result.state is not None:
                ours.save(result.state())
        except OSError:
            pass
        else:
            if ours.written is not None:
                return "; nothing is lost, --resume writes them when that is possible"
        try:
            folder = Path(tempfile.mkdtemp(prefix="siren-network-"))
            write_network(folder, network, task.reference.shape[:2], origin.bits)
        except OSError:
            return ""
    return f"; the network is in {folder / NETWORK}"


def _print_scores(options: argparse.Namespace, task, result, saved: results.Saved) -> None:
    best, where = result.best, results.where(task)
    print(f"output: {saved.score}{where}; loss {best.loss:.3e} at epoch {best.epoch}")
    for name, score in saved.baselines.items():
        print(f"{name}: {score}")
    print(f"written to {shown_path(options.output_dir)}", flush=True)


def _status(result, ours: Checkpoint) -> int:
    """The exit status, after telling the user of anything but a finished training."""
    if result.ended == "diverged":
        tell(
            f"warning: the loss was not finite after {result.history[-1].epoch + 1} epochs; "
            f"saved is the network of epoch {result.best.epoch}; try a smaller --lr"
        )
        return DIVERGED
    if result.ended == "interrupted":
        how = "; --resume goes on" if ours.written is not None else ""
        tell(f"interrupted; saved is the network of epoch {result.best.epoch}{how}")
        return INTERRUPTED
    return 0
