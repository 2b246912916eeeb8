"""The output folder of a run: writable, locked, and without foreign files in the way."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from siren.cli.errors import Failure, Problem
from siren.files import LOCK, FolderInUse, locked, recover, writable
from siren.output.record import (
    ForeignFile,
    Record,
    read_record,
    rendering_files,
    replaced_input,
    training_files,
)
from siren.output.summary import SUMMARY, is_summary
from siren.text import printable
from siren.training.checkpoint import NAME as STATE


@contextlib.contextmanager
def output_folder(options: argparse.Namespace, inputs: Iterable[Path]):
    """Lock the output folder, created if missing, and check that the run may write into it.

    ``inputs`` are the files that the run, or any run of the same call, reads. Yields the ``Lock``.
    Raises Problem.
    """
    with _locked_folder(options) as lock:
        check_folder(options, inputs, read_record(options.output_dir, lock))
        try:
            yield lock
        finally:
            _remove_uncommitted(options.output_dir, lock)


@contextlib.contextmanager
def _locked_folder(options: argparse.Namespace):
    """Create the output folder if it is missing, and lock it; yields the ``Lock``."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(writable(options.output_dir))
            lock = stack.enter_context(locked(options.output_dir))
            recover(options.output_dir)
        except FolderInUse as error:
            raise Problem(f"--output_dir: {error}; name another folder, or wait") from error
        except (OSError, ValueError) as error:  # a full disk may still have room for names
            raise _unwritable_folder(options, error) from error
        yield lock


def check_folder(
    options: argparse.Namespace, inputs: Iterable[Path], record: Record | None = None
) -> None:
    """Raise Problem if the run would overwrite its inputs or files that are not its own.

    ``record`` defaults to that of the output folder.
    """
    folder = options.output_dir
    folder_name = printable(str(folder))
    record = record or read_record(folder)
    render = options.task == "render"
    if record.kind == ("training" if render else "rendering"):
        what = "results of a training" if render else "pictures that render has drawn"
        raise Problem(f"--output_dir {folder_name} holds {what}; name another folder")
    names = (
        rendering_files(options.derivatives)
        if render
        else training_files(options.task, bool(options.preview_every))
    )
    written = names | {LOCK} | set(record.digests) | (set() if render else {STATE})
    replaced = replaced_input(folder, written, inputs)
    if replaced:
        path, name = replaced
        raise Problem(
            f"--output_dir {folder_name}: the run would replace or remove its own input "
            f"{printable(str(path))} ({name}); name another folder"
        )
    try:
        record.check(names)
    except ForeignFile as error:
        raise Problem(f"--output_dir: {error}; move it, or name another folder") from error
    if not render and os.path.isdir(folder / STATE):
        raise Problem(
            f"--output_dir: {folder_name}/{STATE} is a folder; move it, or name another one"
        )


@contextlib.contextmanager
def parent_folder(options: argparse.Namespace):
    """Lock the folder that holds one output folder for each of several pictures. Raises Problem."""
    summary = options.output_dir / SUMMARY
    if os.path.lexists(summary) and not is_summary(summary):
        raise Problem(
            f"--output_dir: {printable(str(summary))} exists, and is not as this program wrote it; "
            "move it, or name another folder"
        )
    with _locked_folder(options):
        yield


def _unwritable_folder(options: argparse.Namespace, error: Exception) -> Problem:
    """The error for an output folder that cannot be written."""
    reason = getattr(error, "strerror", None) or error
    return Problem(
        f"--output_dir {printable(str(options.output_dir))} cannot be written ({reason}); "
        "name another folder"
    )


def save_failure(options: argparse.Namespace, error: OSError, rescue: str = "") -> Failure:
    """The error for results that could not be written; ``rescue`` says where the network is."""
    return Failure(
        f"the results could not be written to {printable(str(options.output_dir))} "
        f"({error.strerror or error}){rescue}"
    )


def _remove_uncommitted(folder: Path, lock) -> None:
    """Remove the files, such as previews, that a run without results has written."""
    committed, written = read_record(folder), read_record(folder, lock)
    for name, _ in lock.recorded():
        if not committed.owns(name) and written.owns(name):
            with contextlib.suppress(OSError):
                (folder / name).unlink()
    lock.forget()
