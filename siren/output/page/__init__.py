"""index.html: a page to look at, with every run below a folder. Nothing of it is on the network.

``python -m siren.output.page FOLDER`` writes it too.
"""

from __future__ import annotations

from pathlib import Path

from siren.files import write_bytes
from siren.output.page.document import GENERATOR, draw_page
from siren.output.page.runs import find_runs
from siren.output.record import check_mark

PAGE = "index.html"


def write_page(folder: Path) -> Path:
    """Write the page of all runs in and below ``folder``, and return its path.

    What is missing or damaged in a run is left out. Raises ForeignFile if another page of that name
    is in the way, and OSError if the page cannot be written.
    """
    path = folder / PAGE
    check_mark(path, lambda file: GENERATOR.encode() in file.read(1024))
    write_bytes(path, draw_page(folder, find_runs(folder)))
    return path
