"""After the training: save the results, and report how the run ended."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from pathlib import Path

from siren import signals
from siren.cli.errors import DIVERGED, INTERRUPTED, Outcome, Problem, notify
from siren.cli.folder import save_failure
from siren.cli.options import display_path, json_options
from siren.cli.resuming import interruption
from siren.files import Change
from siren.npz import NETWORK, write_network
from siren.output.results import Results, Saved, scored_pixels_note
from siren.training.checkpoint import Checkpoint


def finish(session, task, network, result) -> Outcome:
    """Save the ``result`` of a training of ``session`` and print its scores.

    The state on disk is removed once the results of a complete run are written. Raises Problem,
    and the first error met while pictures were made.
    """
    options, checkpoint = session.settings, session.checkpoint
    if result.best is None:
        raise _no_result_error(options, result, checkpoint)
    facts = {"options": json_options(options), "inputs": session.fingerprint}
    results = Results(facts, session.bits, task, network, result)
    change = Change(options.output_dir)
    try:
        with Change(options.output_dir) as unscored:
            results.write_unscored(unscored, session.lock)
            with signals.deferred():
                unscored.commit()
        with change:
            saved = results.write(change, session.lock, session.engine, session.preview)
            with signals.deferred():
                change.commit()
                if result.ended != "interrupted":
                    checkpoint.remove()
    except KeyboardInterrupt:
        if not change.committed:
            how = _rescue(result, checkpoint, task, network, session.bits)
            raise Problem(f"interrupted while the results were saved{how}", INTERRUPTED) from None
        raise Problem("interrupted; all results are written", INTERRUPTED) from None
    except Exception as error:
        how = _rescue(result, checkpoint, task, network, session.bits)
        if isinstance(error, OSError):
            raise save_failure(options, error, how) from error
        notify(f"the results could not be made{how}")
        raise
    _print_scores(options, task, result, saved)
    if saved.problems:
        raise saved.problems[0]
    status = _status(result, checkpoint)
    score = saved.score
    return Outcome(status, result.ended, score.psnr, score.ssim, result.history[-1].seconds)


def _no_result_error(options: argparse.Namespace, result, checkpoint: Checkpoint) -> Problem:
    """What to raise after a training without a single finite loss."""
    if result.ended == "interrupted":
        return interruption(checkpoint)
    return Problem(
        "the loss is not finite from the start; try a smaller --omega_0"
        + (" or --prior_weight" if getattr(options, "prior", "none") != "none" else "")
    )


def _rescue(result, checkpoint: Checkpoint, task, network, bits: int) -> str:
    """Keep the network, as a state or elsewhere, when its results cannot be written; says how."""
    with signals.deferred():
        if result.ended == "interrupted" and checkpoint.written is not None:
            return f"; the state of epoch {checkpoint.written} is kept, and --resume goes on"
        if result.state is not None:
            with contextlib.suppress(OSError):
                checkpoint.save(result.state())
                return "; nothing is lost, --resume writes them when that is possible"
        try:
            folder = Path(tempfile.mkdtemp(prefix="siren-network-"))
            write_network(folder, network, task.reference.shape[:2], bits)
        except OSError:
            return ""
    return f"; the network is in {folder / NETWORK}"


def _print_scores(options: argparse.Namespace, task, result, saved: Saved) -> None:
    best, note = result.best, scored_pixels_note(task)
    print(f"output: {saved.score}{note}; loss {best.loss:.3e} at epoch {best.epoch}")
    for name, score in saved.baselines.items():
        print(f"{name}: {score}")
    for note in saved.notes:
        print(note)
    print(f"written to {display_path(options.output_dir)}", flush=True)


def _status(result, checkpoint: Checkpoint) -> int:
    """The exit status; a training that did not finish is reported."""
    if result.ended == "diverged":
        notify(
            f"warning: the loss was not finite after {result.history[-1].epoch + 1} epochs; "
            f"the network of epoch {result.best.epoch} is saved; try a smaller --lr"
        )
        return DIVERGED
    if result.ended == "interrupted":
        how = "; --resume goes on" if checkpoint.written is not None else ""
        notify(f"interrupted; the network of epoch {result.best.epoch} is saved{how}")
        return INTERRUPTED
    return 0
