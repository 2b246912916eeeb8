"""Which files of a folder this program wrote: no other one is replaced or removed.

A training says so in metrics.json, a rendering in rendering.json: the SHA-256 of each of their
files by its name. What a run has written before its end is in the lock of its folder.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from siren.files import Lock, file_digest
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
_NAMES = _TRAINING.union(_PREVIEWS, _OPTIONAL, *_OF_TASK.values())  # all there are


class NotOurs(Exception):
    """A file in the folder is in the way and not this program's; the message says which."""


def training_files(task: str, previewed: bool) -> set[str]:
    """Names of the files that a training writes, but for its state, which it keeps apart."""
    names = _TRAINING | _OF_TASK.get(task, set())
    names |= _PREVIEWS if previewed else set()
    return names | (_OPTIONAL if "matplotlib" in sys.modules or find_spec("matplotlib") else set())


def rendering_files(derivatives: bool) -> set[str]:
    """Names of the files that a rendering writes."""
    return {"output.png", RENDERING} | ({"gradient.png", "laplacian.png"} if derivatives else set())


@dataclass(frozen=True)
class Record:
    """What earlier runs wrote into ``folder``.

    kind      "training", "rendering", or "" where there was none
    digests   of the files that are recorded, by name; a killed run leaves several of one
    all_ours  whether every file with a name of a training is taken for one: the run was of a
              version of this program that kept no record
    """

    folder: Path
    kind: str
    digests: dict[str, set[str]]
    all_ours: bool = False

    def owns(self, name: str) -> bool:
        """Whether the file called ``name`` is one of them, unchanged."""
        if name in (METRICS, RENDERING):
            return (name == METRICS) == (self.kind == "training") and self.kind != ""
        if self.all_ours and name in _NAMES:
            return True
        return name in self.digests and file_digest(self.folder / name) in self.digests[name]

    def leftovers(self, names: Iterable[str]) -> list[str]:
        """Files of earlier runs that are none of the new ``names``."""
        return sorted(name for name in self.digests.keys() - set(names) if self.owns(name))

    def check(self, names: Iterable[str]) -> None:
        """Raise NotOurs if one of ``names``, which are to be written, is of somebody else."""
        for name in sorted(names):
            path = self.folder / name
            if not os.path.lexists(path):
                continue
            shown = printable(str(path))
            if path.is_dir() and not path.is_symlink():
                raise NotOurs(f"{shown} is a folder, where a file of that name is to be written")
            if not self.owns(name):
                raise NotOurs(f"{shown} is there, and not as this program wrote it")


def read_record(folder: Path, lock: Lock | None = None) -> Record:
    """The record of ``folder``, and of the killed runs that ``lock`` knows of."""
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


def _add(digests: dict[str, set[str]], files) -> None:
    """Take over names and digests of a JSON file that anybody may have made."""
    for name, digest in files.items() if isinstance(files, dict) else ():
        if isinstance(digest, str) and name in _NAMES:
            digests[name].add(digest)


def replaced_input(folder: Path, names: Iterable[str], inputs: Iterable[Path]) -> tuple | None:
    """(input, name) of the first of ``inputs`` that is the file ``name`` of ``folder``, or None.

    Files are compared, not names: a link to an input is that input.
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
