"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import os
import re
from pathlib import Path

# What write_bytes here and images.write_png call a file before it is whole.
_UNFINISHED = re.compile(r"\.(.+-\d+|[0-9a-f]{16}\.tmp)")


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
