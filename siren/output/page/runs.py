"""The runs below a folder, and what their text files say. Any of these files may hold anything."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
import stat
from collections import deque
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from siren.files import open_regular
from siren.output.page.picture_size import picture_size
from siren.output.report import METRICS, read_metrics

MAX_DEPTH = 3  # folders below the first one
MAX_FOLDERS = 5000  # in case that somebody has a page made of their home
MAX_BYTES = 1 << 24  # of a text file
MAX_TEXT = 300  # characters of a name or an option

#: Files of a run in the order in which they are listed.
NAMES = (
    "panel.png", "output.png", "reference.png", "masked.png", "gradient.png", "laplacian.png",
    "preview.png", "training.gif", "history.png", "history.csv", "network.npz", METRICS,
)  # fmt: skip

Points = list[tuple[float, float]]  # (epoch, value); a value may be any float


@dataclass(frozen=True)
class Run:
    """A run in ``folder``, which is reached from the page's folder by ``parts``.

    metrics   its valid metrics.json
    modified  when that was written, in seconds since 1970
    """

    folder: Path
    parts: tuple[str, ...]
    metrics: dict
    modified: float

    def option(self, name: str) -> str:
        """An option as text; "" if it is not known, or not a text or number."""
        value = self.metrics["options"].get(name)
        return str(value)[:MAX_TEXT] if isinstance(value, (str, int, float)) else ""

    @property
    def task(self) -> str:
        """The name of the experiment."""
        return self.option("task") or "run"

    @property
    def image(self) -> str:
        """The file names of the pictures that it was trained on."""
        return " + ".join(os.path.basename(path) for path in self.inputs[:2] if path) or "?"

    @property
    def inputs(self) -> tuple[str, str, str]:
        """The paths of the pictures that it was trained on, and of the mask."""
        return tuple(map(self.option, ("input_path", "ot_image_path", "mask_path")))

    @cached_property
    def files(self) -> dict[str, os.stat_result]:
        """The regular files of ``NAMES`` that exist."""
        found = {}
        for name in NAMES:
            try:
                status = os.stat(self.folder / name)
            except (OSError, ValueError):
                continue
            if stat.S_ISREG(status.st_mode) and status.st_size:
                found[name] = status
        return found

    @cached_property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """(height, width) of those of ``files`` that are pictures."""
        sizes = {name: picture_size(self.folder / name) for name in self.files}
        return {name: size for name, size in sizes.items() if size is not None}

    def version(self, name: str) -> str:
        """A short text that is another one when the file called ``name`` has changed."""
        status = self.files[name]
        return hashlib.sha256(f"{status.st_mtime_ns} {status.st_size}".encode()).hexdigest()[:8]

    @cached_property
    def curves(self) -> dict[str, Points]:
        """The columns "loss", "validation" and "psnr" of history.csv; empty if it is damaged."""
        try:
            with open_regular(self.folder / "history.csv") as file:
                content = file.read(MAX_BYTES + 1)
            if len(content) > MAX_BYTES:
                return {}
            return _read_curves(content.decode("utf8", errors="replace"))
        except (OSError, csv.Error):
            return {}


def find_runs(folder: Path) -> list[Run]:
    """The runs in ``folder`` and at most ``MAX_DEPTH`` below, the newest first.

    Links and hidden folders are not followed.
    """
    runs, waiting = [], deque([()])
    for _ in range(MAX_FOLDERS):
        if not waiting:
            break
        parts = waiting.popleft()
        run = _read_run(folder.joinpath(*parts), parts)
        if run is not None:
            runs.append(run)
        if len(parts) < MAX_DEPTH:
            waiting.extend((*parts, name) for name in _folders(folder.joinpath(*parts)))
    return sorted(runs, key=lambda run: (-run.modified, run.parts))


def _folders(folder: Path) -> list[str]:
    """The names of the folders in ``folder``, except hidden ones; links are none."""
    try:
        with os.scandir(folder) as entries:
            return sorted(
                entry.name
                for entry in entries
                if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)
            )
    except OSError:
        return []


def _read_run(folder: Path, parts: tuple[str, ...]) -> Run | None:
    try:
        status = os.stat(folder / METRICS)
        if status.st_size > MAX_BYTES:
            return None
        metrics = read_metrics(folder)
    except (OSError, OverflowError, MemoryError):  # OverflowError: a score of 400 digits
        return None
    return None if metrics is None else Run(folder, parts, metrics, status.st_mtime)


def _read_curves(text: str) -> dict[str, Points]:
    reader = csv.reader(io.StringIO(text))
    header = next(reader, [])
    columns = [name for name in ("loss", "validation", "psnr") if name in header]
    if "epoch" not in header:
        return {}
    curves: dict[str, Points] = {name: [] for name in columns}
    for row in reader:
        cells = dict(zip(header, row))
        epoch = _number(cells.get("epoch", ""))
        for name in columns if math.isfinite(epoch) else ():
            if cells.get(name):  # most epochs have no PSNR
                curves[name].append((epoch, _number(cells[name])))
    return {name: points for name, points in curves.items() if points}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
