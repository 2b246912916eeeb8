"""panel.png of two runs on the same picture: ``python -m siren.output.comparison RUN RUN FOLDER``.

It has the picture that both are scored against, what each reached, and the errors of both.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np

from siren.files import write_bytes
from siren.images import ImageError, encode_png
from siren.output.panel import draw_panel
from siren.output.record import ForeignFile, check_mark
from siren.output.report import read_metrics, read_result
from siren.pictures import Picture, absolute_error, error_picture
from siren.text import decibels, printable

PANEL = "panel.png"
_NAMES = ("output", "reference")
_MARK = b"siren-jittor comparison"  # in the file, which says that it is this program's


class ComparisonError(Exception):
    """Two runs cannot be compared; the message is one sentence."""


def write_comparison(runs: list[Path], folder: Path) -> Path:
    """Write the panel of two ``runs``, folders of results, into ``folder``, created if missing.

    Returns the path of the panel. Raises ComparisonError, ForeignFile, and OSError if
    it cannot be written.
    """
    pictures = [_read_run(run) for run in runs]
    references = [reference for _, _, reference in pictures]
    shapes = {image.shape for _, *images in pictures for image in images}
    if len(shapes) > 1 or (references[0] != references[1]).any():
        raise ComparisonError(f"{runs[0]} and {runs[1]} are not of the same picture")
    path = folder / PANEL
    check_mark(path, _has_mark)
    panel = [Picture("reference", references[0])]
    panel += [Picture(caption, output) for caption, output, _ in pictures]
    panel += _errors(pictures, references[0])
    folder.mkdir(parents=True, exist_ok=True)
    content = encode_png(np.asarray(draw_panel(panel)))
    write_bytes(path, content + _MARK)  # a reader of PNG stops before the mark
    return path


def _errors(pictures, reference) -> list[Picture]:
    """The errors of all outputs, on one scale."""
    largest = max(absolute_error(output, reference)[1] for _, output, _ in pictures)
    return [
        error_picture(output, reference, f"|error| of {caption.split(':')[0]}", largest)
        for caption, output, _ in pictures
    ]


def _read_run(run: Path):
    """(caption, output, reference) of the results in a folder; images are as ``read_image``'s."""
    metrics = read_metrics(run)
    if metrics is None:
        raise ComparisonError(f"{run} has no results")
    channels = 3 if metrics["options"].get("channels") == 3 else 1
    try:
        output, reference = (read_result(run / f"{name}.png", channels) for name in _NAMES)
    except ImageError as error:
        raise ComparisonError(f"{run}: {error}") from error
    recipe = printable(str(metrics["options"].get("recipe", run.name)))
    passes, seconds = metrics.get("epochs"), metrics["seconds"] or 0
    quality = decibels(metrics["psnr"])
    return f"{recipe}: {quality}, {passes} epochs, {seconds:.0f} s", output, reference


def _has_mark(file: BinaryIO) -> bool:
    file.seek(-len(_MARK), os.SEEK_END)
    return file.read() == _MARK


def main(arguments: list[str]) -> int:
    """Write the comparison that the command line names; returns the exit status."""
    if len(arguments) != 3:
        print("usage: python -m siren.output.comparison RUN RUN FOLDER", file=sys.stderr)
        return 2
    *runs, folder = map(Path, arguments)
    try:
        print(f"both side by side: {printable(str(write_comparison(runs, folder)))}")
    except (ComparisonError, ForeignFile, OSError) as error:
        print(f"siren.output.comparison: {printable(str(error))}", file=sys.stderr)
        return 1 if isinstance(error, OSError) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
