"""The output folder: is a file as this program wrote it? It replaces and removes no others.

In the folder of a run, a list of SHA-256 says so: a training has it in metrics.json, a rendering in
rendering.json, and what a run writes before its end is in the lock file of the folder. A file of
several runs (a page, a summary, a comparison) has a mark in itself instead.
"""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from siren.files import Change, ForeignFile, Lock, file_digest
from siren.output.report import METRICS, read_json, read_metrics
from siren.tasks import TASKS
from siren.training.checkpoint import NAME as STATE

RENDERING = "rendering.json"
_TRAINING = {"network.npz", "output.png", "reference.png", "panel.png", METRICS}
_TRAINING |= {"history.csv", "history.png"}
_PREVIEWS = {"preview.png", "training.gif"}
_NAMES = _TRAINING.union(_PREVIEWS, *(task.files for task in TASKS.values()))


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

    kind     "training", "rendering", or "" without either
    digests  recorded digests by file name; killed runs can leave several for one name
    """

    folder: Path
    kind: str
    digests: dict[str, set[str]]

    def owns(self, name: str) -> bool:
        """Whether this program wrote the file called ``name``, and nobody has changed it since."""
        if name == STATE:
            return True  # whose ever it is, it is renamed and not replaced
        if name in (METRICS, RENDERING):
            return (name == METRICS) == (self.kind == "training") and self.kind != ""
        return name in self.digests and file_digest(self.folder / name) in self.digests[name]

    def check(self, names: Iterable[str]) -> None:
        """Raise ForeignFile if writing ``names`` would replace a file that is not our own."""
        for name in sorted(names):
            path = self.folder / name
            if os.path.isdir(path) and (name == STATE or not path.is_symlink()):
                raise ForeignFile(path, "is a folder, but the run writes a file of that name")
            if os.path.lexists(path) and not self.owns(name):
                raise ForeignFile(path)


def read_record(folder: Path, lock: Lock | None = None) -> Record:
    """The record of ``folder``, with the files of killed runs that ``lock`` lists."""
    digests: dict[str, set[str]] = defaultdict(set)
    for name, digest in lock.recorded() if lock else ():
        _add(digests, {name: digest})
    metrics, rendering = read_metrics(folder), read_json(folder / RENDERING)
    if metrics is not None:
        _add(digests, metrics.get("files"))
        return Record(folder, "training", digests)
    if rendering is not None and isinstance(rendering.get("files"), dict):
        _add(digests, rendering["files"])
        return Record(folder, "rendering", digests)
    return Record(folder, "", digests)


def remove_leftovers(change: Change, lock: Lock) -> None:
    """Let ``change``, which is otherwise complete, remove the other files of earlier runs."""
    record = read_record(change.folder, lock)
    for name in sorted(record.digests.keys() - change.digests.keys()):
        if record.owns(name):
            change.remove(name)


def remove_uncommitted(folder: Path, lock: Lock) -> None:
    """Remove the files, such as previews, that a run without results has written."""
    committed, written = read_record(folder), read_record(folder, lock)
    for name, _ in lock.recorded():
        if not committed.owns(name) and written.owns(name):
            with contextlib.suppress(OSError):
                (folder / name).unlink()
    lock.forget()


def _add(digests: dict[str, set[str]], files) -> None:
    """Add the valid names and digests of ``files``, from a JSON file that may hold anything."""
    for name, digest in files.items() if isinstance(files, dict) else ():
        if isinstance(digest, str) and name in _NAMES:
            digests[name].add(digest)


def replaced_input(folder: Path, names: Iterable[str], inputs: Iterable[Path]) -> tuple | None:
    """(input, name) if the file ``name`` of ``folder`` is one of ``inputs``; else None.

    Files are compared by device and inode: a link to an input is that input.
    """
    identities = {_identity(path): path for path in inputs}
    identities.pop(None, None)
    for name in sorted(names):
        identity = _identity(folder / name)
        if identity in identities:
            return identities[identity], name
    return None


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino
