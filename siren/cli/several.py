"""One run for each of several pictures; a failure does not stop the others."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from siren import runtime
from siren.cli import inputs, recipes
from siren.cli.errors import (
    INTERRUPTED,
    Outcome,
    Problem,
    notify,
    overall_status,
    run_safely,
)
from siren.cli.folder import check_folder, output_folder, parent_folder, save_failure
from siren.cli.options import OUTPUTS, display_path
from siren.cli.resuming import finished_outcome
from siren.cli.workers import train_on_workers
from siren.files import ForeignFile
from siren.images import ImageError
from siren.output import report
from siren.output.page import PAGE, write_page
from siren.runtime.processes import local_size
from siren.signals import Stop, deferred
from siren.text import printable

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
NOT_BEGUN = Outcome(INTERRUPTED, "not begun")


def make_runs(options: argparse.Namespace) -> list[argparse.Namespace]:
    """The options of one run for each picture; several pictures get a folder each."""
    try:
        pictures = find_pictures(options.input_path)
    except ImageError as error:
        raise Problem(f"--input_path: {error}") from error
    folders = [options.output_dir]
    if len(pictures) > 1:
        folders = [options.output_dir / name for name in folder_names(pictures)]
    return [
        argparse.Namespace(**{**vars(options), "input_path": picture, "output_dir": folder})
        for picture, folder in zip(pictures, folders)
    ]


def find_pictures(paths: list[Path]) -> list[Path]:
    """``paths`` with each folder replaced by the pictures directly in it, sorted by name.

    A folder's pictures are its files with one of ``SUFFIXES``, in upper or lower case, except
    hidden ones. A file named twice is returned once. Files are not opened. Raises ImageError for a
    folder that has no pictures or cannot be listed.
    """
    files: list[Path] = []
    for path in paths:
        if not os.path.isdir(path):
            files.append(path)
            continue
        try:
            pictures = sorted(
                file
                for file in path.iterdir()
                if file.suffix.lower() in SUFFIXES
                and not file.name.startswith(".")
                and file.is_file()
            )
        except OSError as error:
            reason = error.strerror or error
            raise ImageError(f"{str(path)!r} cannot be listed ({reason})") from error
        if not pictures:
            raise ImageError(f"{str(path)!r} is a folder without pictures; name another one")
        files += pictures
    unique: dict[str, Path] = {}
    for path in files:
        unique.setdefault(os.path.realpath(path), path)
    return list(unique.values())


def folder_names(pictures: list[Path]) -> list[str]:
    """A folder name for each of ``pictures``: its stem, with a number where that is taken."""
    taken = {report.SUMMARY}
    names = []
    for picture in pictures:
        stem = name = picture.stem.lstrip(".") or "picture"
        number = 1
        while name in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name)
        names.append(name)
    return names


def run_pictures(options: argparse.Namespace, run: Callable) -> int:
    """Call ``run(options, stop)`` for each picture of ``--input_path``; returns the exit status.

    Under mpirun, all processes share the points of a single picture. Several pictures are trained
    by rank 0 alone, in child processes. Bad input is found before the first training.
    """
    runs = make_runs(options)
    if len(runs) == 1:
        status = run(runs[0], Stop()).status
    elif runtime.rank() > 0:
        return 0
    elif local_size() < runtime.world_size():
        raise Problem(
            "--input_path names several pictures, whose processes must all run on one machine; "
            "start mpirun on each machine with some of the pictures"
        )
    else:
        files = input_files(runs)
        outcomes = [check_run(each, files) for each in runs]
        status = run_several(options, runs, outcomes, run, Stop())
    update_page(options.output_dir, len(runs) > 1)
    return status


def input_files(runs: list[argparse.Namespace]) -> list:
    """The paths of all files that ``runs`` read."""
    return [path for each in runs for path in inputs.paths(each).values()]


def run_several(
    options: argparse.Namespace, runs: list, outcomes: list, run: Callable, stop: Stop
) -> int:
    """Call ``run(options, stop)`` for each of ``runs`` and write a summary; returns the status.

    options   those of the whole call
    outcomes  of ``check_run`` for each of ``runs``; those that are not None are not run again
    """
    outcomes = list(outcomes)
    train = train_in_turn if runtime.world_size() == 1 else train_on_workers
    with parent_folder(options):
        train(runs, outcomes, run, stop)
        not_begun = outcomes.count(None)
        outcomes = [outcome or NOT_BEGUN for outcome in outcomes]
        rows = [_summary_row(each, outcome) for each, outcome in zip(runs, outcomes)]
        print(report.format_table(rows))
        try:
            with deferred():
                report.write_summary(options.output_dir, rows)
        except OSError as error:
            raise save_failure(options, error) from error
    if not_begun:
        notify(f"{not_begun} of {len(runs)} not begun; --resume goes on")
    return overall_status(outcomes)


def train_in_turn(runs: list, outcomes: list, run: Callable, stop: Stop) -> None:
    """Fill in the ``outcomes`` that are None: of ``run(options, stop)`` for each of ``runs``."""
    for number, each in enumerate(runs):
        if stop():
            return
        if outcomes[number] is None:
            subject = display_path(each.input_path)
            print(f"== {number + 1} of {len(runs)}: {subject}", flush=True)
            outcomes[number] = run_safely(run, each, stop, subject)


def check_run(options: argparse.Namespace, files: list) -> Outcome | None:
    """Raise Problem for bad input; with ``--resume``, return the outcome of a finished run.

    ``files`` are all files that the call reads.
    """
    pictures = inputs.read_inputs(options)
    settings = recipes.resolve(options, *pictures.extent)
    if os.path.isdir(options.output_dir):  # Path.is_dir may raise
        with output_folder(options, files):  # which clears up after a killed run
            pass
    else:
        check_folder(options, files)
    if not options.resume:
        return None
    return finished_outcome(settings, pictures)


def _summary_row(options: argparse.Namespace, outcome: Outcome) -> report.SummaryRow:
    return report.SummaryRow(
        display_path(options.input_path),
        printable(options.output_dir.name),
        options.task,
        outcome.psnr,
        outcome.ssim,
        outcome.seconds,
        printable(outcome.ended),
    )


def update_page(output_dir: Path, several: bool) -> None:
    """Write the page that has what was written to ``output_dir``, and say where it is.

    That is outputs/index.html for everything in outputs/; elsewhere only ``several`` runs in one
    folder get a page. A page that cannot be written is reported; the runs are saved all the same.
    """
    if runtime.rank() > 0:
        return
    inside = OUTPUTS.resolve() in (output_dir.resolve(), *output_dir.resolve().parents)
    if not (inside or several):
        return
    folder = OUTPUTS if inside else output_dir
    try:
        with deferred():
            page = write_page(folder)
    except ForeignFile as error:
        notify(str(error))
    except Exception as error:
        notify(f"{display_path(folder / PAGE)} cannot be written: {error}")
    else:
        print(f"all runs to look at: {display_path(page)}", flush=True)
