"""The summary of several runs: summary.csv, and a table on the terminal."""

from __future__ import annotations

import csv
import io
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from siren.files import open_regular, write_bytes

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
    names = ("image", "task", "PSNR", "SSIM", "seconds", "status")
    lines = [names] + [
        (
            row.image,
            row.task,
            "" if row.psnr is None else f"{row.psnr:.2f} dB",
            "" if row.ssim is None else f"{row.ssim:.3f}",
            "" if row.seconds is None else f"{row.seconds:.1f}",
            row.status,
        )
        for row in rows
    ]
    return align(lines, right=(2, 3, 4))


def align(lines: list[tuple[str, ...]], right: tuple[int, ...] = ()) -> str:
    """The cells of ``lines`` as text in columns; those numbered in ``right`` end at their right."""
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(line, widths))
        ).rstrip()
        for line in lines
    )


def is_summary(path: Path) -> bool:
    """Whether ``write_summary`` wrote the file: its header is that of a summary."""
    try:
        with open_regular(path) as file:
            return file.readline(1024).decode(errors="replace").strip() == _HEADER
    except OSError:
        return False


def write_summary(folder: Path, rows: list[Row]) -> None:
    """Write summary.csv with a line for each of ``rows``. Raises OSError."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    text.write(_HEADER + "\n")
    writer.writerows(map(astuple, rows))
    write_bytes(folder / SUMMARY, text.getvalue().encode())
