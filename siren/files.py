"""Writing files so that a reader never sees half of one, and the folders that they go to."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

_UNFINISHED = re.compile(r"\..+-\d+")  # what write_bytes calls a file before it is whole


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` aside and rename it to ``path``; raises OSError, leaving nothing behind."""
    aside = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed run was writing; nobody else may be writing into ``folder``."""
    for path in folder.iterdir():
        if _UNFINISHED.fullmatch(path.name):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def writable(folder: Path):
    """Within its context ``folder`` exists and can be written into; raises OSError if it cannot.

    Folders that had to be created are removed at the end if they are empty then.
    """
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
        yield
    finally:
        for created in missing:
            with contextlib.suppress(OSError):
                created.rmdir()
