"""The page of all runs, rewritten at the end of every call."""

from __future__ import annotations

from pathlib import Path

from siren import runtime
from siren.cli.errors import notify
from siren.cli.options import OUTPUTS, display_path
from siren.output.page import PAGE, write_page
from siren.output.record import ForeignFile
from siren.signals import deferred


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
