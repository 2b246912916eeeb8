"""The state of a run on disk, from which an interrupted run continues."""

from __future__ import annotations

import hashlib
import io
import json
import operator
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from siren import npz
from siren.files import open_regular, write_bytes

SAVE_EVERY = 30.0  # seconds: the most training that a killed run loses
NAME = "state.npz"


class StateError(Exception):
    """A run cannot be continued; the message says why.

    name  what differs from the earlier run, with which the message begins; "" if nothing does
    """

    def __init__(self, message: str, name: str = ""):
        super().__init__(message)
        self.name = name


@dataclass
class State:
    """A training between two steps.

    step     the next one; the last one plus 1 if only the results are still to be written
    arrays   float32, by name: "flat", the network's parameters; "best", the best ones so far, and
             "lowest" (1,), their criterion; "guide", those whose picture the prior follows, empty
             for none; and "optimizer_0", "optimizer_1" ..., those of the optimizer
    random   state of the generator that the loss draws from (JSON), or ""
    history  for each epoch so far, the fields of ``training.progress.Epoch`` as a list
    seconds  of training so far
    threads  "processes x threads" that computed it, on which rounding depends
    """

    step: int
    arrays: dict[str, np.ndarray]
    random: str
    history: list[list[float | None]]
    seconds: float
    threads: str = ""

    @property
    def epoch(self) -> int:
        """The number of epochs whose loss is known."""
        return len(self.history)


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
        record = {"identity": self.identity, **vars(state), "threads": self.threads}
        arrays = record.pop("arrays")
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

    def load(self) -> State:
        """The state in the file.

        Raises StateError if it cannot be read, is damaged, or belongs to another run.
        """
        try:
            with open_regular(self.path) as file, npz.unpacked(file) as content:
                arrays = dict(content)
                record = json.loads(str(arrays.pop("record")))
                identity = dict(record["identity"])
                state = State(
                    operator.index(record["step"]),
                    {name: npz.floats(a, None, name != "lowest") for name, a in arrays.items()},
                    str(record["random"]),
                    list(record["history"]),
                    float(record["seconds"]),
                    str(record["threads"]),
                )
        except FileNotFoundError:
            raise StateError(self.absence()) from None
        except (OSError, npz.FormatError) as error:
            reason = getattr(error, "strerror", None) or error
            raise StateError(f"{self.path} cannot be read ({reason})") from error
        self.check_identity(identity)
        return state

    def earlier_identity(self) -> dict:
        """The identity of the state in the file; empty if there is none that can be read."""
        try:
            with open_regular(self.path) as file, npz.unpacked(file) as arrays:
                return dict(json.loads(str(arrays["record"]))["identity"])
        except (OSError, npz.FormatError):
            return {}

    def check_identity(self, identity: dict) -> None:
        """Raise StateError if the ``identity`` of an earlier run is not this run's."""
        for name, ours in self.identity.items():
            theirs = identity.get(name)
            if theirs != ours:
                raise StateError(f"{name} {ours} is not that of the earlier run, {theirs}", name)

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


def fingerprint(*arrays: np.ndarray) -> str:
    """A hash of the shapes, types and contents of arrays."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(repr((array.shape, array.dtype.str)).encode())
        total.update(np.ascontiguousarray(array))
    return total.hexdigest()
