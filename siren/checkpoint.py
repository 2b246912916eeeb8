"""What keeps a run safe: its state on disk, and a lock on its output folder."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from siren.files import write_bytes

SAVE_EVERY = 30.0  # seconds of training that can be lost at most
NAME = "state.npz"


class StateError(Exception):
    """A run cannot be continued; the message says why."""


class FolderInUse(Exception):
    """Another run works in the folder; the message names its process."""


@dataclass
class State:
    """A training between two epochs.

    epoch      the next one
    flat       the network's parameters, float32
    best       the best ones so far, and ``lowest`` (1,) their criterion
    optimizer  the optimiser's arrays
    random     state of the generator that the loss draws from (JSON), or ""
    history    one list of numbers or None for each epoch so far, as ``training.Epoch`` has them
    seconds    of training so far
    """

    epoch: int
    flat: np.ndarray
    best: np.ndarray
    lowest: np.ndarray
    optimizer: list[np.ndarray]
    random: str
    history: list[list[float | None]]
    seconds: float


@dataclass
class Checkpoint:
    """The state of one run in ``folder``, saved from time to time.

    identity  what the run depends on, by name: its options, and hashes of its data. A state of
              another identity is not continued.
    state     where to go on from, as ``load`` found it, or None
    """

    folder: Path
    identity: dict
    state: State | None = None
    saved: float = field(default_factory=time.monotonic)

    @property
    def path(self) -> Path:
        """Where the state is."""
        return self.folder / NAME

    def due(self) -> bool:
        """Is it time to save?"""
        return time.monotonic() - self.saved > SAVE_EVERY

    def save(self, state: State) -> None:
        """Write ``state``; the file is the old or the new one at any time. Raises OSError."""
        record = {
            "identity": self.identity,
            "epoch": state.epoch,
            "random": state.random,
            "history": state.history,
            "seconds": state.seconds,
        }
        arrays = {"flat": state.flat, "best": state.best, "lowest": state.lowest}
        arrays.update({f"optimizer_{i}": array for i, array in enumerate(state.optimizer)})
        self.saved = time.monotonic()  # also if it fails: the next try is not at once
        content = io.BytesIO()
        np.savez(content, record=np.array(json.dumps(record)), **arrays)
        write_bytes(self.path, content.getvalue())

    def content(self) -> bytes:
        """The saved state as it is; StateError if there is none."""
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            raise StateError(f"there is no interrupted run in {self.folder}") from None
        except OSError as error:
            raise StateError(f"{self.path} cannot be read ({error.strerror or error})") from error

    def load(self, content: bytes | None = None) -> State:
        """The state in ``content``, by default the saved one; StateError as for another run's."""
        content = self.content() if content is None else content
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                record = json.loads(str(file["record"]))
                count = sum(name.startswith("optimizer_") for name in file.files)
                optimizer = [file[f"optimizer_{i}"] for i in range(count)]
                arrays = {name: file[name] for name in ("flat", "best", "lowest")}
            identity = record.pop("identity")
            state = State(**record, **arrays, optimizer=optimizer)
        except Exception as error:  # a broken file can raise nearly anything in zipfile and NumPy
            raise StateError(f"{self.path} is damaged ({type(error).__name__})") from error
        self.compare(identity)
        return state

    def compare(self, identity: dict) -> None:
        """Raise StateError if an earlier run's ``identity`` is not this one's."""
        for name, value in self.identity.items():
            if identity.get(name) != value:
                raise StateError(
                    f"--{name} {value} is not that of the earlier run, {identity.get(name)}"
                    if name != "data"
                    else "the input image is not that of the earlier run"
                )

    def remove(self) -> None:
        """Forget the state: the run is complete."""
        self.path.unlink(missing_ok=True)


def fingerprint(*arrays: np.ndarray) -> str:
    """A hash of the contents of arrays."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(repr((array.shape, array.dtype.str)).encode())
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


@contextlib.contextmanager
def locked(folder: Path):
    """Keep ``folder``, which must exist, to this process; FolderInUse if another one has it.

    The system frees the lock of a process that dies, so that none is ever stale.
    """
    path = folder / ".lock"
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(descriptor, 32).decode(errors="replace").strip()
            os.close(descriptor)
            raise FolderInUse(f"process {owner or 'unknown'} is working in {folder}") from None
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                break
        os.close(descriptor)  # its owner removed it in between: this is not the folder's lock
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)
