"""Several processes that train one network: ``mpirun -np 4 python main.py ...``.

Jittor uses MPI in a process that mpirun has started. Without mpirun, rank is 0, the world size is 1
and every call is trivial. Call nothing here before ``runtime.start``.
"""

from __future__ import annotations

import json
import pickle
import time

import jittor as jt
import numpy as np

_BLOCK = 2**22  # bytes of an array per broadcast
_EXCHANGE_EVERY = 0.05  # seconds between two; each waits for the device, a millisecond on a GPU
_MOST_GROWTH = 4  # of the steps between two exchanges, from one to the next


def rank() -> int:
    """The index of this process, from 0."""
    return jt.rank


def world_size() -> int:
    """The number of processes."""
    return jt.world_size


def share(total: int) -> range:
    """This process's contiguous share of ``total`` things."""
    return range(total * rank() // world_size(), total * (rank() + 1) // world_size())


def all_reduce(var):
    """The sum of all processes' ``var``, a float32 Var of the same shape everywhere."""
    return var if world_size() == 1 else var.mpi_all_reduce("add")


def sum_of(numbers: list[float]) -> list[float]:
    """The sums of all processes' ``numbers``, two or more of them; all processes must call it."""
    if world_size() == 1:
        return numbers
    return all_reduce(jt.array(np.float32(numbers))).numpy().tolist()


def any_true(flag: bool) -> bool:
    """Whether ``flag`` is true in any process; all processes must call it."""
    return sum_of([flag, flag])[0] > 0


def broadcast(content: bytes) -> bytes:
    """Rank 0's ``content``, in all processes."""
    if world_size() == 1:
        return content
    size = np.array([len(content)])
    jt.mpi.broadcast(size, 0)
    array = np.frombuffer(content, np.uint8).copy() if rank() == 0 else np.empty(size, np.uint8)
    jt.mpi.broadcast(array, 0)
    return array.tobytes()


def broadcast_object(value):
    """Rank 0's ``value``, which can be pickled, in all processes."""
    if world_size() == 1:
        return value
    return pickle.loads(broadcast(pickle.dumps(value) if rank() == 0 else b""))


def scatter(array: np.ndarray) -> np.ndarray:
    """This process's ``share`` of the rows of rank 0's ``array`` (N, ...).

    The argument is ignored in other ranks, which never hold more than their share and ``_BLOCK``
    bytes.
    """
    root = rank() == 0
    header = json.dumps([array.shape, array.dtype.str]).encode() if root else b""
    (total, *row_shape), dtype = json.loads(broadcast(header))
    local = share(total)
    result = array[local.start : local.stop] if root else np.empty((len(local), *row_shape), dtype)
    rows = max(1, _BLOCK // np.dtype((dtype, tuple(row_shape))).itemsize)
    for begin in range(0, total, rows):
        end = min(begin + rows, total)
        content = array[begin:end].tobytes() if root else b""
        block = np.frombuffer(broadcast(content), dtype).reshape(end - begin, *row_shape)
        low, high = max(begin, local.start), min(end, local.stop)
        if low < high and not root:
            result[low - local.start : high - local.start] = block[low - begin : high - begin]
    return result


class Agreement:
    """Says after which steps the processes ask each other whether one of them wants to stop.

    These steps are the same in all processes, since all derive them from the same sum: that of the
    seconds that passed in each. A single process may stop after every step. ``first`` is the first
    step.
    """

    def __init__(self, first: int):
        self.step, self.steps = first, 1  # of the next exchange, and how many from one to the next
        self.begin = time.perf_counter()

    def due(self, step: int) -> bool:
        """Whether they ask each other after ``step``."""
        return world_size() == 1 or step >= self.step

    def any_true(self, flag: bool) -> bool:
        """Whether ``flag`` is true in any process; all must call it, after a step that is due."""
        if world_size() == 1:
            return flag
        flags, seconds = sum_of([flag, time.perf_counter() - self.begin])
        fitting = _EXCHANGE_EVERY * self.steps * world_size() / max(seconds, 1e-9)
        self.steps = max(1, int(min(fitting, _MOST_GROWTH * self.steps)))
        self.step += self.steps
        self.begin = time.perf_counter()
        return flags > 0
