"""Several processes that train one network: ``mpirun -np 4 python main.py ...``.

Jittor speaks MPI where a process was started by mpirun. A process alone is the first of one, and
everything here is then a matter of course. Call nothing before ``runtime.start``.
"""

from __future__ import annotations

import json

import jittor as jt
import numpy as np

_BLOCK = 2**22  # bytes of an array that are sent at a time


def number() -> int:
    """Which process this is, from 0."""
    return jt.rank


def count() -> int:
    """How many there are."""
    return jt.world_size


def share(total: int) -> range:
    """This process's contiguous share of ``total`` things."""
    return range(total * number() // count(), total * (number() + 1) // count())


def summed(var):
    """The sum of all processes' ``var``, a float32 Var of the same shape everywhere."""
    return var if count() == 1 else var.mpi_all_reduce("add")


def any_of(flag: bool) -> bool:
    """Whether ``flag`` is true in any process; all of them must ask."""
    if count() == 1:
        return flag
    return bool(summed(jt.array(np.float32([flag, flag]))).numpy()[0])


def of_the_first(content: bytes) -> bytes:
    """The first process's ``content``, in all of them."""
    if count() == 1:
        return content
    size = np.array([len(content)])
    jt.mpi.broadcast(size, 0)
    array = np.frombuffer(content, np.uint8).copy() if number() == 0 else np.empty(size, np.uint8)
    jt.mpi.broadcast(array, 0)
    return array.tobytes()


def handed_out(array: np.ndarray) -> np.ndarray:
    """This process's share of the rows of the first one's ``array`` (N, ...).

    The others' own ``array`` does not matter; they have no more rows at a time than their share
    and ``_BLOCK`` bytes.
    """
    first = number() == 0
    about = json.dumps([array.shape, array.dtype.str]).encode() if first else b""
    (total, *row), kind = json.loads(of_the_first(about))
    mine = share(total)
    ours = array[mine.start : mine.stop] if first else np.empty((len(mine), *row), kind)
    rows = max(1, _BLOCK // np.dtype((kind, tuple(row))).itemsize)
    for begin in range(0, total, rows):
        end = min(begin + rows, total)
        content = array[begin:end].tobytes() if first else b""
        block = np.frombuffer(of_the_first(content), kind).reshape(end - begin, *row)
        low, high = max(begin, mine.start), min(end, mine.stop)
        if low < high and not first:
            ours[low - mine.start : high - mine.start] = block[low - begin : high - begin]
    return ours


def disagreements(facts: dict) -> list[str]:
    """Names of the ``facts`` (as JSON can hold them) that are not the same in all processes."""
    expected = json.loads(of_the_first(json.dumps(facts).encode()))
    names = list(expected)
    differs = [json.loads(json.dumps(facts.get(name))) != expected[name] for name in names]
    found = summed(jt.array(np.float32([*differs, 0]))).numpy()
    return [name for name, differing in zip(names, found) if differing > 0]
