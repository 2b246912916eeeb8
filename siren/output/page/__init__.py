"""index.html: a page to look at, with every run below a folder. Nothing of it is on the network.

``python -m siren.output.page FOLDER`` writes it too.
"""

from __future__ import annotations

import os
from pathlib import Path

from siren.files import open_regular, write_bytes
from siren.output.page.document import GENERATOR, draw_page
from siren.output.page.runs import find_runs

PAGE = "index.html"


def write_page(folder: Path) -> Path | None:
    """Write the page of all runs in and below ``folder``, and return its path.

    Returns None, and writes nothing, if another page of that name is in the way. What is missing or
    damaged in a run is left out. Raises OSError if the page cannot be written.
    """
    path = folder / PAGE
    if os.path.lexists(path) and not is_page(path):
        return None
    write_bytes(path, draw_page(folder, find_runs(folder)))
    return path


def is_page(path: Path) -> bool:
    """Whether ``write_page`` wrote the file: its head says so. A link is its user's own."""
    try:
        with open_regular(path) as file:
            return GENERATOR.encode() in file.read(1024) and not path.is_symlink()
    except OSError:
        return False
