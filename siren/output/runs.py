"""The runs below a folder, and what is in their files; a damaged or missing file is left out."""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from urllib.parse import quote

from siren.images.opening import ImageError, open_picture
from siren.output.report import METRICS, read_metrics

MAX_DEPTH = 3  # folders below the first one
MAX_FOLDERS = 5000  # in case that somebody has a page made of their home
MAX_PIXELS, MAX_BYTES = 1 << 24, 1 << 27  # of a picture; larger ones are only linked

#: Files of a run in the order in which they are listed.
NAMES = (
    "panel.png", "output.png", "reference.png", "masked.png", "gradient.png", "laplacian.png",
    "preview.png", "training.gif", "history.png", "history.csv", "network.npz", METRICS,
)  # fmt: skip


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
        return str(value) if isinstance(value, (str, int, float)) else ""

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
            with contextlib.suppress(OSError):
                status = os.stat(self.folder / name)
                if stat.S_ISREG(status.st_mode) and status.st_size:
                    found[name] = status
        return found

    @cached_property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """(height, width) of those of ``files`` that are pictures which the page can show."""
        found = {}
        for name, status in self.files.items():
            if name.endswith((".png", ".gif")) and status.st_size <= MAX_BYTES:
                with (
                    contextlib.suppress(ImageError),
                    open_picture(self.folder / name) as (picture, _),
                ):
                    if picture.width * picture.height <= MAX_PIXELS:
                        found[name] = picture.height, picture.width
        return found

    def url(self, name: str) -> str:
        """The URL of a file; it changes with the file, so that a reload shows the new one."""
        status = self.files[name]
        return f"{link(*self.parts, name)}?v={status.st_mtime_ns:x}-{status.st_size:x}"


def find_runs(folder: Path) -> list[Run]:
    """The runs in ``folder`` and at most ``MAX_DEPTH`` below, the newest first.

    Links and hidden folders are not followed.
    """
    runs = []
    for path, folders, _ in islice(os.walk(folder), MAX_FOLDERS):
        parts = Path(path).relative_to(folder).parts
        inner = [name for name in folders if not name.startswith(".")]
        folders[:] = sorted(inner) if len(parts) < MAX_DEPTH else []
        metrics = read_metrics(Path(path))
        if metrics is not None:
            with contextlib.suppress(OSError):  # removed meanwhile
                modified = os.stat(Path(path, METRICS)).st_mtime
                runs.append(Run(Path(path), parts, metrics, modified))
    return sorted(runs, key=lambda run: (-run.modified, run.parts))


def link(*parts: str) -> str:
    """The relative URL of the file whose path has these ``parts``; they need not be Unicode."""
    return "/".join(quote(os.fsencode(part), safe="") for part in parts)
