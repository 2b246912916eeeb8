"""Several runs in one call, of pictures or of experiments; a failure does not stop the others."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from siren import runtime
from siren.cli import inputs, recipes
from siren.cli.errors import (
    INTERRUPTED,
    Outcome,
    Problem,
    about,
    notify,
    overall_status,
    report_error,
)
from siren.cli.folder import check_folder, output_folder, parent_folder, save_failure
from siren.cli.options import OUTPUTS, display_path
from siren.cli.resuming import finished_outcome, keep_choices
from siren.files import ForeignFile
from siren.images import ImageError
from siren.output import report
from siren.output.page import PAGE, write_page
from siren.runtime.processes import local_size
from siren.signals import Stop, deferred
from siren.text import SCORE_NAMES, align, printable, score_cells

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
NOT_BEGUN = Outcome(INTERRUPTED, "not begun")


@dataclass(eq=False)
class Run:
    """One picture, or one pair of them, to train on.

    options  as ``parse`` gives them, for this picture
    subject  what messages about it begin with; "" if it is alone, and then it raises its errors
    heading  a line to print when it begins, or ""
    outcome  how it ended; None before, and while its results are still being written

    After ``check``:

    settings  the options as ``recipes.resolve`` completes them for the picture
    pixels   of the picture, to which the time of a training is proportional
    bits     of each of its samples, 8 or 16
    """

    options: argparse.Namespace
    subject: str = ""
    heading: str = ""
    outcome: Outcome | None = None
    settings: argparse.Namespace | None = None
    pixels: int = 0
    bits: int = 8


class Pictures:
    """The runs of one task, one for each picture of ``--input_path``. Raises Problem.

    alone  whether there are no other experiments

    Several pictures get a folder each.
    """

    def __init__(self, options: argparse.Namespace, alone: bool = True):
        self.options, self.alone = options, alone
        with about("input_path", ImageError):
            pictures = find_pictures(options.input_path)
        self.several = len(pictures) > 1
        names = folder_names(pictures) if self.several else [""]
        self.runs = []
        for number, (picture, name) in enumerate(zip(pictures, names)):
            own = {"input_path": picture, "output_dir": options.output_dir / name}
            run = Run(argparse.Namespace(**{**vars(options), **own}))
            run.subject = "" if alone else options.task
            if self.several:
                run.subject = display_path(picture)
                run.heading = f"== {number + 1} of {len(pictures)}: {run.subject}"
            self.runs.append(run)

    @property
    def files(self) -> list[Path]:
        """The paths of all files that the runs read."""
        return [path for run in self.runs for path in inputs.paths(run.options).values()]

    @property
    def outcome(self) -> Outcome:
        """How all ended together."""
        outcomes = [run.outcome or NOT_BEGUN for run in self.runs]
        if not self.several or set(outcomes) == {NOT_BEGUN}:
            return outcomes[0]
        return Outcome(overall_status(outcomes), f"{len(self.runs)} pictures")

    def check(self, files: list[Path]) -> None:
        """Raise Problem for bad input; with ``--resume``, runs that have finished get an outcome.

        ``files`` are all files that the call reads.
        """
        for run in self.runs:
            pictures = inputs.read_inputs(run.options)
            run.settings = recipes.resolve(keep_choices(run.options), *pictures.extent)
            if os.path.isdir(run.options.output_dir):  # Path.is_dir may raise
                with output_folder(run.options, files):  # which clears up after a killed run
                    pass
            else:
                check_folder(run.options, files)
            run.outcome = finished_outcome(run.settings, pictures)
            run.pixels = pictures.image.shape[0] * pictures.image.shape[1]
            run.bits = pictures.bits

    def runs_to_train(self, wait: Callable[[], None]) -> Iterator[list[Run]]:
        """Yield the runs that the caller has to train, before the next step; then write a summary.

        After ``wait()`` all results are written, and the runs have their outcomes.
        Under mpirun, all processes share the points of a single picture. Several pictures are
        trained by rank 0 alone, in child processes. Bad input is found before the first training.
        """
        if self.several and self.alone:
            if runtime.rank() > 0:
                self.runs = []
                return
            if local_size() < runtime.world_size():
                raise Problem(
                    "--input_path names several pictures, whose processes must all run on one "
                    "machine; start mpirun on each machine with some of the pictures"
                )
            self.check(self.files)
        to_train = [run for run in self.runs if run.outcome is None]
        if not self.several:
            yield to_train
            return
        with parent_folder(self.options):
            yield to_train
            wait()
            self._write_summary()
        not_begun = sum(run.outcome is None for run in self.runs)
        if not_begun:
            notify(f"{not_begun} of {len(self.runs)} not begun; --resume goes on")

    def _write_summary(self) -> None:
        rows = []
        for run in self.runs:
            outcome = run.outcome or NOT_BEGUN
            picture, folder = run.options.input_path, run.options.output_dir.name
            about_run = display_path(picture), printable(folder), run.options.task
            scores = outcome.psnr, outcome.ssim, outcome.seconds
            rows.append(report.SummaryRow(*about_run, *scores, printable(outcome.ended)))
        print(report.format_table(rows))
        try:
            with deferred():
                report.write_summary(self.options.output_dir, rows)
        except OSError as error:
            raise save_failure(self.options, error) from error


class Experiments:
    """The runs of all four experiments, one after the other. Raises Problem for bad input.

    stop  asked before each experiment
    """

    several = True

    def __init__(self, options: argparse.Namespace, stop: Stop):
        if runtime.world_size() > 1:
            raise Problem("--task all runs in one process; under mpirun give one task at a time")
        self.folder, self.stop = options.output_dir, stop
        self.groups = [Pictures(each, alone=False) for each in options.experiments]
        files = [path for group in self.groups for path in group.files]
        for group in self.groups:
            group.check(files)
        self.errors: dict[Pictures, Outcome] = {}  # what has ended a group, and not just a run

    @property
    def runs(self) -> list[Run]:
        """The runs of all experiments."""
        return [run for group in self.groups for run in group.runs]

    @property
    def outcomes(self) -> list[Outcome]:
        """How each experiment ended."""
        return [self.errors.get(group) or group.outcome for group in self.groups]

    @property
    def outcome(self) -> Outcome:
        """How all ended together."""
        return Outcome(overall_status(self.outcomes), f"{len(self.groups)} experiments")

    def runs_to_train(self, wait: Callable[[], None]) -> Iterator[list[Run]]:
        """Yield the runs that the caller has to train, as ``Pictures`` does; then print a table."""
        names = ", ".join(group.options.task for group in self.groups)
        print(f"Four experiments, one after the other: {names}; in {display_path(self.folder)}")
        if self.groups[0].options.recipe == "report":
            print("./run.sh tuned takes far less time and makes better pictures.")
        for number, group in enumerate(self.groups):
            if self.stop():
                break
            options = group.options
            print(f"== {options.task}, {number + 1} of {len(self.groups)}", flush=True)
            try:
                yield from group.runs_to_train(wait)
            except (Exception, KeyboardInterrupt) as error:
                self.stop.requested |= isinstance(error, KeyboardInterrupt)
                self.errors[group] = report_error(error, options.task, options.verbose)
        wait()
        print(self._table(), flush=True)

    def _table(self) -> str:
        """The scores of all experiments, and what to look at."""
        rows = [("task", *SCORE_NAMES, "look at", "")]
        for group, outcome in zip(self.groups, self.outcomes):
            folder = display_path(group.options.output_dir)
            look_at = f"{folder}/panel.png" if outcome.psnr is not None else folder
            ended = "" if outcome.ended == "finished" else printable(outcome.ended)
            rows.append((group.options.task, *score_cells(outcome), look_at, ended))
        return align(rows, right=(1, 2, 3))


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
    if not os.path.isdir(folder):  # interrupted before anything was written
        return
    try:
        with deferred():
            page = write_page(folder)
    except ForeignFile as error:
        notify(str(error))
    except Exception as error:
        notify(f"{display_path(folder / PAGE)} cannot be written: {error}")
    else:
        print(f"all runs to look at: {display_path(page)}", flush=True)
