"""The output folder: is a file as this program wrote it? It replaces and removes no others.

In the folder of a run, a list of SHA-256 says so: a training has it in metrics.json, a rendering in
rendering.json. A mark in the file itself says so of those of several runs (a page, a summary, a
comparison), and of the preview of a run that has no metrics.json yet.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from siren.files import Change, ForeignFile, ends_with, file_digest, open_regular
from siren.output.report import METRICS, read_json, read_metrics
from siren.tasks import TASKS
from siren.training.checkpoint import NAME as STATE

RENDERING = "rendering.json"
PREVIEW = "preview.png"
PREVIEW_MARK = b"siren-jittor preview"  # behind the end of the PNG, where no reader looks
_TRAINING = {"network.npz", "output.png", "reference.png", "panel.png", METRICS}
_TRAINING |= {"history.csv", "history.png"}
_PREVIEWS = {PREVIEW, "training.gif"}
_NAMES = _TRAINING.union(_PREVIEWS, *(task.files for task in TASKS.values())) - {METRICS}


def training_files(task: str, previewed: bool) -> set[str]:
    """Names of the files that a training writes."""
    names = _TRAINING.union([STATE], TASKS[task].files)
    return names | (_PREVIEWS if previewed else set())


def rendering_files(derivatives: bool) -> set[str]:
    """Names of the files that a rendering writes."""
    return {"output.png", RENDERING} | ({"gradient.png", "laplacian.png"} if derivatives else set())


@dataclass(frozen=True)
class Record:
    """What earlier runs wrote into ``folder``.

    report   the file that has the digests, ``METRICS`` of a training or ``RENDERING``; "" for none
    digests  recorded digests by file name
    """

    folder: Path
    report: str
    digests: dict[str, str]

    def owns(self, name: str) -> bool:
        """Whether this program wrote the file called ``name``, and nobody has changed it since."""
        if name in (STATE, self.report):
            return True  # a state, whose ever it is, is renamed and not replaced
        return name in self.digests and file_digest(self.folder / name) == self.digests[name]

    def check(self, names: Iterable[str]) -> None:
        """Raise ForeignFile if writing ``names`` would replace a file that is not our own."""
        for name in sorted(names):
            path = self.folder / name
            if os.path.isdir(path) and (name == STATE or not path.is_symlink()):
                raise ForeignFile(path, "is a folder, but the run writes a file of that name")
            if os.path.lexists(path) and not self.owns(name):
                raise ForeignFile(path)


def read_record(folder: Path) -> Record:
    """The record of ``folder``, with the preview of a killed run."""
    content, report = read_metrics(folder), METRICS
    if content is None:
        content, report = read_json(folder / RENDERING) or {}, RENDERING
    files, digests = content.get("files"), {}
    if isinstance(files, dict):
        digests = {n: d for n, d in files.items() if n in _NAMES and isinstance(d, str)}
    elif report == RENDERING:
        report = ""
    if _is_early(folder / PREVIEW):
        digests[PREVIEW] = file_digest(folder / PREVIEW)
    return Record(folder, report, digests)


def remove_leftovers(change: Change) -> None:
    """Let ``change``, which is otherwise complete, remove the other files of earlier runs."""
    record = read_record(change.folder)
    for name in sorted(record.digests.keys() - change.digests.keys()):
        if record.owns(name):
            change.remove(name)


def remove_early_preview(folder: Path) -> None:
    """Remove the preview of a run that has ended without results."""
    with contextlib.suppress(OSError):
        if _is_early(folder / PREVIEW):
            (folder / PREVIEW).unlink()


def _is_early(path: Path) -> bool:
    """Whether a file is a preview that was written during a training."""
    try:
        with open_regular(path) as file:
            return ends_with(file, PREVIEW_MARK)
    except OSError:
        return False


def replaced_input(folder: Path, names: Iterable[str], inputs: Iterable[Path]) -> tuple | None:
    """(input, name) if the file ``name`` of ``folder`` is one of ``inputs``; else None.

    Files are compared by device and inode: a link to an input is that input.
    """
    written = {_identity(folder / name): name for name in sorted(names, reverse=True)}
    written.pop(None, None)
    found = ((path, written.get(_identity(path))) for path in inputs)
    return next(((path, name) for path, name in found if name), None)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino
