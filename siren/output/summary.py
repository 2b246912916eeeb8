"""The summary of several runs: summary.csv, and a table on the terminal."""

from __future__ import annotations

import csv
import io
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from siren.files import write_bytes
from siren.output.record import check_mark
from siren.text import SCORE_NAMES, align, score_cells

SUMMARY = "summary.csv"


@dataclass(frozen=True)
class Row:
    """One picture's line: PSNR in dB, seconds of training; None without a result."""

    image: str
    folder: str
    task: str
    psnr: float | None
    ssim: float | None
    seconds: float | None
    status: str


_HEADER = ",".join(field.name for field in fields(Row))


def format_table(rows: list[Row]) -> str:
    """The summary as text: aligned columns under their names, a line for each of ``rows``."""
    lines = [("image", "task", *SCORE_NAMES, "status")]
    lines += [(row.image, row.task, *score_cells(row), row.status) for row in rows]
    return align(lines, right=(2, 3, 4))


def check_summary(folder: Path) -> None:
    """Raise ForeignFile if ``write_summary`` would replace a file without a summary's header."""
    check_mark(folder / SUMMARY, lambda file: file.readline(1024).strip() == _HEADER.encode())


def write_summary(folder: Path, rows: list[Row]) -> None:
    """Write summary.csv with a line for each of ``rows``. Raises OSError."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    text.write(_HEADER + "\n")
    writer.writerows(map(astuple, rows))
    write_bytes(folder / SUMMARY, text.getvalue().encode())
