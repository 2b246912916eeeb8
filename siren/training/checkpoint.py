"""The state of a run on disk, from which ``--resume`` continues."""

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

SAVE_EVERY = 30.0  # seconds: the most training that a killed run loses
NAME = "state.npz"


class StateError(Exception):
    """A run cannot be continued; the message says why."""


@dataclass
class State:
    """A training between two steps.

    step       the next one; the last one plus 1 if only the results are still to be written
    flat       the network's parameters, float32
    best       the best parameters so far
    lowest     their criterion, (1,)
    optimizer  the optimiser's arrays
    random     state of the generator that the loss draws from (JSON), or ""
    history    for each epoch so far, the fields of ``training.history.Epoch`` as a list
    seconds    of training so far
    guide      parameters whose picture the prior follows, float32; empty for none
    threads    "processes x threads" that computed it, on which rounding depends
    """

    step: int
    flat: np.ndarray
    best: np.ndarray
    lowest: np.ndarray
    optimizer: list[np.ndarray]
    random: str
    history: list[list[float | None]]
    seconds: float
    guide: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    threads: str = ""

    @property
    def epoch(self) -> int:
        """The number of epochs whose loss is known."""
        return len(self.history)

    def check(
        self, epochs: int, steps: int, parameters: int, optimizer: list[tuple], random: bool
    ) -> None:
        """Raise FormatError unless the state fits a training.

        That training has ``epochs`` of ``steps`` each, a number of ``parameters``, an ``optimizer``
        with arrays of these shapes, and a loss that draws ``random`` numbers or does not.
        """
        _check_random(self.random)
        _check_history(self.history)
        if self.step > epochs * steps + 1:
            raise FormatError(f"its step {self.step} is beyond the last one, {epochs * steps}")
        if self.epoch != -(-self.step // steps):
            raise FormatError("its history is not as long as its training")
        if self.flat.size != parameters or self.best.size != parameters:
            raise FormatError(f"it has {self.flat.size} parameters, the network {parameters}")
        if self.guide.size not in (0, parameters):
            raise FormatError(f"it has {self.guide.size} parameters that its prior follows")
        if [array.shape for array in self.optimizer] != [tuple(shape) for shape in optimizer]:
            raise FormatError("its arrays of the optimiser have other shapes")
        if random != bool(self.random):
            raise FormatError("its random numbers are not those of this loss")


@dataclass
class Checkpoint:
    """The state file of one run in ``folder``.

    identity  what the run's network depends on, by name: options, and hashes of its data. A state
              of another identity is not continued.
    state     the loaded state to continue from, or None
    threads   ``State.threads`` of this run
    """

    folder: Path
    identity: dict
    state: State | None = None
    threads: str = ""
    saved: float = field(default_factory=time.monotonic)
    written: int | None = None  # the epoch of the state that this run has on disk

    @property
    def path(self) -> Path:
        """The path of the state file."""
        return self.folder / NAME

    def due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() - self.saved > SAVE_EVERY

    def save(self, state: State) -> None:
        """Write ``state`` atomically. Raises OSError."""
        record = {
            "identity": self.identity,
            "step": state.step,
            "random": state.random,
            "history": state.history,
            "seconds": state.seconds,
            "threads": self.threads,
        }
        arrays = {
            "flat": state.flat,
            "best": state.best,
            "lowest": state.lowest,
            "guide": state.guide,
        }
        arrays.update({f"optimizer_{i}": array for i, array in enumerate(state.optimizer)})
        self.saved = time.monotonic()  # before writing: after a failure too, the next try waits
        content = io.BytesIO()
        np.savez(content, record=np.array(json.dumps(record)), **arrays)
        write_bytes(self.path, content.getvalue())
        self.written = state.epoch

    def exists(self) -> bool:
        """Whether there is a state file, of this run or another."""
        return os.path.lexists(self.path)

    def absence(self) -> str:
        """What to say if there is no state file: that, and which renamed one could be continued."""
        renamed = sorted(self.folder.glob("state-*.npz"))
        hint = f" (to continue {renamed[-1].name}, rename it {NAME})" if renamed else ""
        return f"there is no interrupted run in {self.folder}{hint}"

    def content(self) -> bytes:
        """The bytes of the state file; StateError if it cannot be read."""
        try:
            return read_file(self.path)
        except FileNotFoundError:
            raise StateError(self.absence()) from None
        except OSError as error:
            raise StateError(f"{self.path} cannot be read ({error.strerror or error})") from error
        except FormatError as error:
            raise StateError(f"{self.path} is damaged ({error})") from error

    def load(self, content: bytes | None = None) -> State:
        """The state in ``content``, by default that of the file.

        Raises StateError if it is damaged or belongs to another run.
        """
        content = self.content() if content is None else content
        try:
            identity, state = _parse(content)
        except FormatError as error:
            raise StateError(f"{self.path} is damaged ({error})") from error
        self.check_identity(identity)
        self.written = state.epoch
        return state

    def check_identity(self, identity: dict) -> None:
        """Raise StateError if the ``identity`` of an earlier run is not this run's."""
        for name, value in self.identity.items():
            if identity.get(name) != value:
                raise StateError(
                    f"--{name} {value} is not that of the earlier run, {identity.get(name)}"
                    if name != "data"
                    else "the input image is not that of the earlier run"
                )

    def set_aside(self) -> Path | None:
        """Rename the state file, so that a new run does not overwrite it. Raises OSError.

        Returns the new path, or None if there is no state file.
        """
        number = 1
        while os.path.lexists(renamed := self.folder / f"state-{number}.npz"):
            number += 1
        try:
            self.path.rename(renamed)
        except FileNotFoundError:
            return None
        return renamed

    def remove(self) -> None:
        """Remove the state file of this run, which is complete. Raises OSError."""
        if self.written is not None:
            self.path.unlink(missing_ok=True)
            self.written = None


_FIELDS = {
    "record": Field("U", ()),
    "flat": float32(None),
    "best": float32(None),
    "lowest": float32(1, finite=False),
    "guide": Field("f", (None,), optional=True, itemsize=4),
}
_OPTIMIZER = Field("f", None, itemsize=4)


def _parse(content: bytes) -> tuple[dict, State]:
    """(identity, state) of a file's content; FormatError unless every value is valid."""
    arrays, lists = read_arrays(content, _FIELDS, {"optimizer": _OPTIMIZER})
    try:
        record = json.loads(str(arrays["record"]))
        identity, random = record["identity"], record["random"]
        step = record.get("step", record.get("epoch"))  # which earlier versions counted
        history, seconds = record["history"], record["seconds"]
        threads = record.get("threads", "")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise FormatError(f"its record is not readable, {type(error).__name__}") from error
    texts = isinstance(threads, str) and isinstance(random, str)
    if not (texts and isinstance(identity, dict) and isinstance(history, list)):
        raise FormatError("its record is not one of a run")
    if not (type(step) is int and step >= 0 and _is_number(seconds) and seconds >= 0):
        raise FormatError(f"its step is {printable(str(step)[:20])}")
    state = State(
        step,
        *(arrays[name].astype(np.float32, copy=False) for name in ("flat", "best", "lowest")),
        [array.astype(np.float32, copy=False) for array in lists["optimizer"]],
        random,
        history,
        float(seconds),
        arrays.get("guide", np.zeros(0, np.float32)).astype(np.float32, copy=False),
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


def _check_history(history: list) -> None:
    """Raise FormatError unless each entry is [epoch, loss, validation, psnr, seconds]."""
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
    """A hash of the shapes, types and contents of arrays."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(repr((array.shape, array.dtype.str)).encode())
        total.update(np.ascontiguousarray(array))
    return total.hexdigest()
