"""The state of a run on disk, from which ``--resume`` goes on."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from siren.files import write_bytes
from siren.npz import Field, FormatError, float32, read_arrays, read_file
from siren.text import printable

SAVE_EVERY = 30.0  # seconds of training that can be lost at most
NAME = "state.npz"


class StateError(Exception):
    """A run cannot be continued; the message says why."""


@dataclass
class State:
    """A training between two epochs.

    epoch      the next one; one more than the last where only the saving is left to do
    flat       the network's parameters, float32
    best       the best ones so far, and ``lowest`` (1,) their criterion
    optimizer  the optimiser's arrays
    random     state of the generator that the loss draws from (JSON), or ""
    history    one list of numbers or None for each epoch so far, as ``training.Epoch`` has them
    seconds    of training so far
    threads    of the machine that computed it, times its processes: the bits depend on them
    """

    epoch: int
    flat: np.ndarray
    best: np.ndarray
    lowest: np.ndarray
    optimizer: list[np.ndarray]
    random: str
    history: list[list[float | None]]
    seconds: float
    threads: str = ""

    def check(self, epochs: int, parameters: int, optimizer: list[tuple], random: bool) -> None:
        """Raise FormatError unless it is one of a training such as this.

        ``parameters`` is their number, ``optimizer`` the shapes of the optimiser's arrays, and
        ``random`` whether the loss draws random numbers.
        """
        _check_random(self.random)
        _check_history(self.history, self.epoch)
        if self.epoch > epochs + 1:
            raise FormatError(f"its epoch {self.epoch} is beyond the last one, {epochs}")
        if self.flat.size != parameters or self.best.size != parameters:
            raise FormatError(f"it has {self.flat.size} parameters, the network {parameters}")
        if [array.shape for array in self.optimizer] != [tuple(shape) for shape in optimizer]:
            raise FormatError("its arrays of the optimiser have other shapes")
        if random != bool(self.random):
            raise FormatError("its random numbers are not those of this loss")


@dataclass
class Checkpoint:
    """The state of one run in ``folder``, saved from time to time.

    identity  what the run depends on, by name: its options, and hashes of its data. A state of
              another identity is not continued.
    state     where to go on from, as ``load`` found it, or None
    threads   as ``State.threads``, of this run
    """

    folder: Path
    identity: dict
    state: State | None = None
    threads: str = ""
    saved: float = field(default_factory=time.monotonic)
    written: int | None = None  # the epoch of the state that this run has on disk

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
            "threads": self.threads,
        }
        arrays = {"flat": state.flat, "best": state.best, "lowest": state.lowest}
        arrays.update({f"optimizer_{i}": array for i, array in enumerate(state.optimizer)})
        self.saved = time.monotonic()  # also if it fails: the next try is not at once
        content = io.BytesIO()
        np.savez(content, record=np.array(json.dumps(record)), **arrays)
        write_bytes(self.path, content.getvalue())
        self.written = state.epoch

    def exists(self) -> bool:
        """Whether there is a state, of whatever run."""
        return os.path.lexists(self.path)

    def content(self) -> bytes:
        """The saved state as it is; StateError if there is none."""
        try:
            return read_file(self.path)
        except FileNotFoundError:
            kept = sorted(self.folder.glob("state-*.npz"))
            hint = f"; {kept[-1].name} is one that was kept, to be renamed {NAME}" if kept else ""
            raise StateError(f"there is no interrupted run in {self.folder}{hint}") from None
        except OSError as error:
            raise StateError(f"{self.path} cannot be read ({error.strerror or error})") from error
        except FormatError as error:
            raise StateError(f"{self.path} is damaged ({error})") from error

    def load(self, content: bytes | None = None) -> State:
        """The state in ``content``, by default the saved one; StateError as for another run's."""
        content = self.content() if content is None else content
        try:
            identity, state = _parse(content)
        except FormatError as error:
            raise StateError(f"{self.path} is damaged ({error})") from error
        self.compare(identity)
        self.written = state.epoch
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

    def keep_aside(self) -> Path | None:
        """Rename a state that is not to be continued; returns its new path, None without any.

        Raises OSError.
        """
        number = 1
        while (kept := self.folder / f"state-{number}.npz").exists() or kept.is_symlink():
            number += 1
        try:
            self.path.rename(kept)
        except FileNotFoundError:
            return None
        return kept

    def remove(self) -> None:
        """Forget the state: the run is complete. Raises OSError."""
        if self.written is not None:
            self.path.unlink(missing_ok=True)
            self.written = None


_FIELDS = {
    "record": Field("U", ()),
    "flat": float32(None),
    "best": float32(None),
    "lowest": float32(1, finite=False),
}
_OPTIMIZER = Field("f", None, itemsize=4)


def _parse(content: bytes) -> tuple[dict, State]:
    """(identity, state) of a file's content, each number held against what it must be."""
    arrays, lists = read_arrays(content, _FIELDS, {"optimizer": _OPTIMIZER})
    try:
        record = json.loads(str(arrays["record"]))
        identity, epoch, random = record["identity"], record["epoch"], record["random"]
        history, seconds = record["history"], record["seconds"]
        threads = record.get("threads", "")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise FormatError(f"its record is not readable, {type(error).__name__}") from error
    texts = isinstance(threads, str) and isinstance(random, str)
    if not (texts and isinstance(identity, dict) and isinstance(history, list)):
        raise FormatError("its record is not one of a run")
    if not (type(epoch) is int and epoch >= 0 and _is_number(seconds) and seconds >= 0):
        raise FormatError(f"its epoch is {printable(str(epoch)[:20])}")
    state = State(
        epoch,
        *(arrays[name].astype(np.float32, copy=False) for name in ("flat", "best", "lowest")),
        [array.astype(np.float32, copy=False) for array in lists["optimizer"]],
        random,
        history,
        float(seconds),
        threads,
    )
    return identity, state


def _check_random(random: str) -> None:
    if random == "":
        return
    try:
        np.random.default_rng().bit_generator.state = json.loads(random)
    except Exception as error:  # NumPy's setter raises nearly anything
        raise FormatError("its random numbers have no state") from error


def _check_history(history: list, epoch: int) -> None:
    """One list [epoch, loss, validation, psnr, seconds] for each of the epochs before ``epoch``."""
    if len(history) != epoch:
        raise FormatError("its history is not as long as its training")
    for number, entry in enumerate(history):
        if not (
            isinstance(entry, list)
            and len(entry) == 5
            and entry[0] == number
            and all(_is_number(entry[i]) for i in (0, 1, 4))
            and all(entry[i] is None or isinstance(entry[i], float) for i in (2, 3))
        ):
            raise FormatError(f"its history is wrong at epoch {number}")


def _is_number(value) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def fingerprint(*arrays: np.ndarray) -> str:
    """A hash of the contents of arrays."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(repr((array.shape, array.dtype.str)).encode())
        total.update(np.ascontiguousarray(array))
    return total.hexdigest()
