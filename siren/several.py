"""Several pictures in one call: which they are, where each one's results go, and the summary."""

from __future__ import annotations

import csv
import io
import os
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from siren.files import open_regular, write_bytes
from siren.images import ImageError

SUMMARY = "summary.csv"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")


def find_pictures(paths: list[Path]) -> list[Path]:
    """``paths`` with each folder replaced by the pictures directly in it, sorted by name.

    Those are its files with one of ``SUFFIXES``, in upper or lower case, that are not hidden. A
    file that is named twice is one picture. Raises ImageError for a folder without pictures or
    that cannot be listed; files are not looked into.
    """
    found: list[Path] = []
    for path in paths:
        if not os.path.isdir(path):
            found.append(path)
            continue
        try:
            pictures = sorted(
                inside
                for inside in path.iterdir()
                if inside.suffix.lower() in SUFFIXES
                and not inside.name.startswith(".")
                and inside.is_file()
            )
        except OSError as error:
            reason = error.strerror or error
            raise ImageError(f"{str(path)!r} cannot be listed ({reason})") from error
        if not pictures:
            raise ImageError(f"{str(path)!r} is a folder without pictures; name another one")
        found += pictures
    distinct: dict[str, Path] = {}
    for path in found:
        distinct.setdefault(os.path.realpath(path), path)
    return list(distinct.values())


def folder_names(pictures: list[Path]) -> list[str]:
    """A name for each of ``pictures``: its own without the suffix; repeated ones get a number."""
    taken = {SUMMARY}
    names = []
    for picture in pictures:
        stem = name = picture.stem.lstrip(".") or "picture"
        number = 1
        while name in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name)
        names.append(name)
    return names


@dataclass(frozen=True)
class Row:
    """One picture's line of the summary: PSNR in dB, seconds of training; None where unknown."""

    image: str
    folder: str
    task: str
    psnr: float | None
    ssim: float | None
    seconds: float | None
    status: str


_HEADER = ",".join(field.name for field in fields(Row))


def table(rows: list[Row]) -> str:
    """The summary to be read: aligned columns below their names, a line for each of ``rows``."""
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
    widths = [max(map(len, column)) for column in zip(*lines)]
    align = (str.ljust, str.ljust, str.rjust, str.rjust, str.rjust, str.ljust)
    return "\n".join(
        "  ".join(put(cell, width) for put, cell, width in zip(align, line, widths)).rstrip()
        for line in lines
    )


def is_summary(path: Path) -> bool:
    """Whether a file is one that ``write_summary`` wrote."""
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
