"""The output folder of a run: writable, locked, and without foreign files in the way."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterable
from pathlib import Path

from siren import output
from siren.cli.errors import Problem, about
from siren.files import LOCK, FolderInUse, ForeignFile, open_folder
from siren.output.report import METRICS, check_summary
from siren.runtime.messages import failure
from siren.tasks import TASKS


@contextlib.contextmanager
def output_folder(options: argparse.Namespace, inputs: Iterable[Path]):
    """Lock the output folder, created if missing, and check that the run may write into it.

    ``inputs`` are the files that the run, or any run of the same call, reads. Raises Problem.
    """
    with _locked_folder(options):
        check_folder(options, inputs)
        try:
            yield
        finally:
            output.remove_early_preview(options.output_dir)


def check_folder(options: argparse.Namespace, inputs: Iterable[Path]) -> None:
    """Raise Problem if the run would overwrite its inputs or files that are not its own."""
    folder = options.output_dir
    record = output.read_record(folder)
    render = options.task not in TASKS
    if record.report == (METRICS if render else output.RENDERING):
        what = "results of a training" if render else "pictures that render has drawn"
        raise Problem(f"--output_dir {folder} holds {what}; name another folder")
    names = (
        output.rendering_files(options.derivatives)
        if render
        else output.training_files(options.task, bool(options.preview_every))
    )
    replaced = output.replaced_input(folder, names | {LOCK} | set(record.digests), inputs)
    if replaced:
        path, name = replaced
        raise Problem(
            f"--output_dir {folder}: the run would replace or remove its own input "
            f"{path} ({name}); name another folder"
        )
    with _no_foreign_files():
        record.check(names)


@contextlib.contextmanager
def parent_folder(options: argparse.Namespace):
    """Lock the folder that holds one output folder for each of several pictures. Raises Problem."""
    with _no_foreign_files():
        check_summary(options.output_dir)
    with _locked_folder(options):
        yield


def _no_foreign_files():
    return about("output_dir", ForeignFile, way_out=", or name another folder")


@contextlib.contextmanager
def _locked_folder(options: argparse.Namespace):
    """Create the output folder if it is missing, and lock it."""
    folder = options.output_dir
    with contextlib.ExitStack() as stack:
        try:
            with about("output_dir", FolderInUse, way_out="; name another folder, or wait"):
                stack.enter_context(open_folder(folder))
        except OSError as error:  # a full disk may still have room for names
            raise Problem(
                f"--output_dir {folder} cannot be written ({error.strerror or error}); name "
                "another folder"
            ) from error
        yield


def save_failure(options: argparse.Namespace, error: OSError, rescue: str = "") -> Problem:
    """The error for results that could not be written; ``rescue`` says where the network is."""
    return failure(
        f"the results could not be written to {options.output_dir} "
        f"({error.strerror or error}){rescue}"
    )
