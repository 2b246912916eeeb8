"""Which files of a folder this program wrote: it replaces and removes no others.

A training lists the SHA-256 of its files in metrics.json, a rendering in rendering.json. Files that
a run writes before its end are listed in the lock file of the folder.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from siren.files import Change, Lock, file_digest
from siren.output.report import METRICS, is_metrics, read_json
from siren.text import printable

RENDERING = "rendering.json"
_TRAINING = {"network.npz", "output.png", "reference.png", "panel.png", "history.csv", METRICS}
_OF_TASK = {
    "poisson": {"gradient.png", "laplacian.png"},
    "edit": {"gradient.png", "laplacian.png"},
    "inpaint": {"masked.png"},
    "render": set(),
}
_PREVIEWS = {"preview.png", "training.gif"}
_OPTIONAL = {"history.png"}  # where matplotlib is installed
_NAMES = _TRAINING.union(_PREVIEWS, _OPTIONAL, *_OF_TASK.values())  # of all tasks


class ForeignFile(Exception):
    """A file that this program did not write is in the way; the message says which."""


def training_files(task: str, previewed: bool) -> set[str]:
    """Names of the files that a training writes, except its state."""
    names = _TRAINING | _OF_TASK.get(task, set())
    names |= _PREVIEWS if previewed else set()
    return names | (_OPTIONAL if "matplotlib" in sys.modules or find_spec("matplotlib") else set())


def rendering_files(derivatives: bool) -> set[str]:
    """Names of the files that a rendering writes."""
    return {"output.png", RENDERING} | ({"gradient.png", "laplacian.png"} if derivatives else set())


@dataclass(frozen=True)
class Record:
    """What earlier runs wrote into ``folder``.

    kind        "training", "rendering", or "" without either
    digests     recorded digests by file name; killed runs can leave several for one name
    no_digests  the training is by a version of this program that recorded no digests: every file
                with the name of a training's file counts as its own
    """

    folder: Path
    kind: str
    digests: dict[str, set[str]]
    no_digests: bool = False

    def owns(self, name: str) -> bool:
        """Whether this program wrote the file called ``name``, and nobody has changed it since."""
        if name in (METRICS, RENDERING):
            return (name == METRICS) == (self.kind == "training") and self.kind != ""
        if self.no_digests and name in _NAMES:
            return True
        return name in self.digests and file_digest(self.folder / name) in self.digests[name]

    def leftovers(self, names: Iterable[str]) -> list[str]:
        """Files of earlier runs that are not among the new ``names``."""
        return sorted(name for name in self.digests.keys() - set(names) if self.owns(name))

    def check(self, names: Iterable[str]) -> None:
        """Raise ForeignFile if writing ``names`` would replace a file that is not our own."""
        for name in sorted(names):
            path = self.folder / name
            if not os.path.lexists(path):
                continue
            if path.is_dir() and not path.is_symlink():
                raise ForeignFile(
                    f"{printable(str(path))} is a folder, but the run writes a file of that name"
                )
            if not self.owns(name):
                raise ForeignFile(
                    f"{printable(str(path))} exists, and is not as this program wrote it"
                )


def read_record(folder: Path, lock: Lock | None = None) -> Record:
    """The record of ``folder``, with the files of killed runs that ``lock`` lists."""
    digests: dict[str, set[str]] = defaultdict(set)
    for name, digest in lock.recorded() if lock else ():
        _add(digests, {name: digest})
    metrics, rendering = read_json(folder / METRICS), read_json(folder / RENDERING)
    if metrics is not None and is_metrics(metrics):
        _add(digests, metrics.get("files"))
        return Record(folder, "training", digests, "files" not in metrics)
    if rendering is not None and isinstance(rendering.get("files"), dict):
        _add(digests, rendering["files"])
        return Record(folder, "rendering", digests)
    return Record(folder, "", digests)


def remove_leftovers(change: Change, lock: Lock) -> None:
    """Let ``change``, which is otherwise complete, remove the other files of earlier runs."""
    for name in read_record(change.folder, lock).leftovers(change.digests):
        change.remove(name)


def _add(digests: dict[str, set[str]], files) -> None:
    """Add the valid names and digests of ``files``, from a JSON file that may hold anything."""
    for name, digest in files.items() if isinstance(files, dict) else ():
        if isinstance(digest, str) and name in _NAMES:
            digests[name].add(digest)


def replaced_input(folder: Path, names: Iterable[str], inputs: Iterable[Path]) -> tuple | None:
    """(input, name) if the file ``name`` of ``folder`` is one of ``inputs``; else None.

    Files are compared by device and inode: a link to an input is that input.
    """
    identities = {}
    for path in inputs:
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            continue
        identities[status.st_dev, status.st_ino] = path
    for name in sorted(names):
        try:
            status = os.stat(folder / name)
        except OSError:
            continue
        if (status.st_dev, status.st_ino) in identities:
            return identities[status.st_dev, status.st_ino], name
    return None
