"""``python -m siren.output.page FOLDER``: writes the page of the runs in and below the folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from siren.output.page import PAGE, write_page
from siren.output.record import ForeignFile
from siren.text import printable


def main() -> int:
    """Write the page of the folder that the command line names; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m siren.output.page", description=f"Writes FOLDER/{PAGE}, a page of all runs."
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="runs are in or below it")
    folder = parser.parse_args().folder
    try:
        page = write_page(folder)
    except ForeignFile as error:
        return _fail(str(error), 2)
    except OSError as error:
        return _fail(f"{folder} cannot be written ({error.strerror or error})", 1)
    print(printable(str(page)))
    return 0


def _fail(message: str, status: int) -> int:
    print(f"siren.output.page: {printable(message)}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
