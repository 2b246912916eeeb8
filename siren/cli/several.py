"""One run for each of several pictures, whatever becomes of the others."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from siren import runtime
from siren.cli import inputs
from siren.cli.collection import find_pictures, folder_names
from siren.cli.errors import (
    DIVERGED,
    INTERRUPTED,
    Interrupted,
    Outcome,
    Problem,
    explained,
    tell,
)
from siren.cli.folder import check_folder, folder_of_several, unsaved
from siren.cli.identity import asked_for, shown_path
from siren.images import ImageError
from siren.output import summary
from siren.output.report import read_metrics
from siren.signals import Stop, held_back
from siren.text import printable
from siren.training.checkpoint import Checkpoint, StateError


def runs_of(options: argparse.Namespace) -> list[argparse.Namespace]:
    """The options of one run for each picture; of several, each has a folder of its own."""
    try:
        pictures = find_pictures(options.input_path)
    except ImageError as error:
        raise Problem(f"--input_path: {error}") from error
    if len(pictures) > 1 and runtime.world_size() > 1:
        raise Problem(
            f"--input_path names {len(pictures)} pictures; under mpirun give one at a time"
        )
    folders = [options.output_dir]
    if len(pictures) > 1:
        folders = [options.output_dir / name for name in folder_names(pictures)]
    return [
        argparse.Namespace(**{**vars(options), "input_path": picture, "output_dir": folder})
        for picture, folder in zip(pictures, folders)
    ]


def run_several(options: argparse.Namespace, runs: list[argparse.Namespace], run: Callable) -> int:
    """Do each of ``runs`` by ``run(options, stop)`` and write a summary; returns the status.

    ``options`` are those of the whole call. Bad input is found before the first one trains.
    """
    read = [path for each in runs for path in inputs.paths(each).values()]
    outcomes = [check_ahead(each, read) for each in runs]
    stop = Stop()
    with folder_of_several(options):
        for number, each in enumerate(runs):
            if stop():
                break
            if outcomes[number] is None:
                print(f"== {number + 1} of {len(runs)}: {shown_path(each.input_path)}", flush=True)
                outcomes[number] = _guarded(run, each, stop)
        left = outcomes.count(None)
        outcomes = [outcome or Outcome(INTERRUPTED, "not begun") for outcome in outcomes]
        rows = [_row(each, outcome) for each, outcome in zip(runs, outcomes)]
        print(summary.table(rows))
        try:
            with held_back():
                summary.write_summary(options.output_dir, rows)
        except OSError as error:
            raise unsaved(options, error) from error
    if left:
        tell(f"{left} of {len(runs)} not begun; --resume goes on")
    statuses = [outcome.status for outcome in outcomes if outcome.status]
    return INTERRUPTED if INTERRUPTED in statuses else (statuses or [0])[0]


def check_ahead(options: argparse.Namespace, read: list) -> Outcome | None:
    """Find bad input of a run; returns its outcome if ``--resume`` finds it done.

    ``read`` are all files that are read. ``options.resume`` is left true only where there is an
    interrupted run.
    """
    pictures = inputs.read_inputs(options)
    check_folder(options, read)
    return finished_before(options, pictures) if options.resume else None


def finished_before(options: argparse.Namespace, pictures: inputs.Inputs) -> Outcome | None:
    """The outcome of the same run, where ``--resume`` finds it done.

    ``options.resume`` is left true only where there is an interrupted run. Raises Problem if the
    folder is of another one.
    """
    asked = asked_for(options)
    if options.precision == "auto":
        asked.pop("precision", None)  # what that means is known only when the device is
    earlier = Checkpoint(options.output_dir, asked)
    try:
        options.resume = earlier.exists()
        if options.resume:
            earlier.load()
            return None
        metrics = read_metrics(options.output_dir)
        if metrics is None or metrics["ended"] == "interrupted":
            return None
        earlier.identity["data"] = pictures.fingerprint()
        earlier.compare({**metrics["options"], "data": metrics["inputs"]})
    except StateError as error:
        folder = shown_path(options.output_dir)
        raise Problem(f"--resume: {folder}: {error}; leave it out to start anew") from error
    return Outcome(
        DIVERGED if metrics["ended"] == "diverged" else 0,
        metrics["ended"],
        metrics["psnr"],
        metrics["ssim"],
        metrics["seconds"],
    )


def nothing_left(options: argparse.Namespace, pictures: inputs.Inputs) -> Outcome | None:
    """The outcome of a run that ``--resume`` finds done, after telling the user; else None."""
    if not options.resume:
        return None
    done = finished_before(options, pictures)
    options.resume = True  # where there is nothing at all, that is an error of this run
    if done:
        print(f"nothing is left to resume: the run in {shown_path(options.output_dir)} is done")
    return done


def _guarded(run: Callable, options: argparse.Namespace, stop: Stop) -> Outcome:
    """The outcome of one run; an error is told, and is no reason not to begin the next one."""
    try:
        return run(options, stop)
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, (Interrupted, KeyboardInterrupt)):
            stop.requested = True
        return explained(error, f"{shown_path(options.input_path)}: ", options.verbose)


def _row(options: argparse.Namespace, outcome: Outcome) -> summary.Row:
    return summary.Row(
        shown_path(options.input_path),
        printable(options.output_dir.name),
        options.task,
        outcome.psnr,
        outcome.ssim,
        outcome.seconds,
        printable(outcome.ended),
    )
