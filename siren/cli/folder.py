"""The output folder of a run: writable, kept to it, and nobody's files in its way."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from siren.cli.errors import Failure, Problem
from siren.files import LOCK, FolderInUse, locked, recover, writable
from siren.output.record import (
    NotOurs,
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
def output_folder(options: argparse.Namespace, read: Iterable[Path]):
    """Within its context the folder exists, no other run uses it, and ours may write; the ``Lock``.

    ``read`` are the files that the run, or any of several, reads. Raises Problem.
    """
    with _kept(options) as lock:
        check_folder(options, read, read_record(options.output_dir, lock))
        try:
            yield lock
        finally:
            _remove_uncommitted(options.output_dir, lock)


@contextlib.contextmanager
def _kept(options: argparse.Namespace):
    """Within its context the folder exists and no other run uses it; the ``Lock``."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(writable(options.output_dir))
            lock = stack.enter_context(locked(options.output_dir))
            recover(options.output_dir)
        except FolderInUse as error:
            raise Problem(f"--output_dir: {error}; name another folder, or wait") from error
        except (OSError, ValueError) as error:  # a full disk may have room for names only
            raise unwritable(options, error) from error
        yield lock


def check_folder(
    options: argparse.Namespace, read: Iterable[Path], record: Record | None = None
) -> None:
    """Raise Problem if the run would write over, or mix with, what is not its own."""
    folder = options.output_dir
    shown = printable(str(folder))
    record = record or read_record(folder)
    render = options.task == "render"
    if record.kind == ("training" if render else "rendering"):
        what = "results of a training" if render else "pictures that render has drawn"
        raise Problem(f"--output_dir {shown} holds {what}; name another folder")
    names = (
        rendering_files(options.derivatives)
        if render
        else training_files(options.task, bool(options.preview_every))
    )
    written = names | {LOCK} | set(record.digests) | (set() if render else {STATE})
    taken = replaced_input(folder, written, read)
    if taken:
        path, name = taken
        raise Problem(
            f"--output_dir {shown}: the run would replace or remove its own input "
            f"{printable(str(path))} ({name}); name another folder"
        )
    try:
        record.check(names)
    except NotOurs as error:
        raise Problem(f"--output_dir: {error}; move it, or name another folder") from error
    if not render and os.path.isdir(folder / STATE):
        raise Problem(f"--output_dir: {shown}/{STATE} is a folder; move it, or name another one")


@contextlib.contextmanager
def folder_of_several(options: argparse.Namespace):
    """As ``output_folder``, for the folder that has a folder for each of several pictures."""
    summary = options.output_dir / SUMMARY
    if os.path.lexists(summary) and not is_summary(summary):
        raise Problem(
            f"--output_dir: {printable(str(summary))} is there, and not as this program wrote it; "
            "move it, or name another folder"
        )
    with _kept(options):
        yield


def unwritable(options: argparse.Namespace, error: Exception) -> Problem:
    """What to tell where the output folder cannot be written."""
    reason = getattr(error, "strerror", None) or error
    return Problem(
        f"--output_dir {printable(str(options.output_dir))} cannot be written ({reason}); "
        "name another folder"
    )


def unsaved(options: argparse.Namespace, error: OSError, rescue: str = "") -> Failure:
    """What to tell where the results could not be written after all."""
    return Failure(
        f"the results could not be written to {printable(str(options.output_dir))} "
        f"({error.strerror or error}){rescue}"
    )


def _remove_uncommitted(folder: Path, lock) -> None:
    """Remove what a run that ends without results has written meanwhile, as a preview."""
    record = read_record(folder)
    for name, _ in lock.recorded():
        if not record.owns(name) and read_record(folder, lock).owns(name):
            with contextlib.suppress(OSError):
                (folder / name).unlink()
