"""Tries whether arrays reach Jittor and come back as they are.

Jittor reads NumPy's own structures in memory, without asking NumPy. Where these differ from what it
was written for, values are garbage, and nothing else says so.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from siren.runtime.install import JITTOR
from siren.runtime.paths import digest
from siren.runtime.problem import RuntimeProblem

# Jittor compiles something for a single number of each of these types, and so not for the others.
COMPUTED = ("int32", "int64", "float32", "float64")
DTYPES = ("bool", "int8", "uint8", "int16", "uint16", "uint32", "float16", *COMPUTED)
_TRIED = '"numpy<2.6"'  # what this program has been tried with


def check_arrays() -> None:
    """Try arrays once for each compilation of Jittor's core, and each version of NumPy.

    Jittor has been imported. Raises RuntimeProblem if what comes back is not what was sent.
    """
    import jittor as jt
    import numpy as np

    core = os.stat(sys.modules["jittor_core"].__file__)
    key = digest(f"{np.__version__} {core.st_mtime_ns} {core.st_size}")
    stamp = Path(jt.flags.cache_path, f"siren-arrays-{key}")
    if stamp.exists():
        return
    problem = find_array_problem()
    if problem:
        raise RuntimeProblem(
            f"Jittor {jt.__version__} misreads the arrays of NumPy {np.__version__} ({problem}); "
            f"install versions that fit each other: pip install --no-deps {JITTOR} {_TRIED}"
        )
    stamp.touch()


def find_array_problem() -> str:
    """The first array that does not come back as it is, in words; "" if all do.

    64-bit arrays come back as 32-bit ones, as Jittor wants it.
    """
    import jittor as jt
    import numpy as np

    for dtype in DTYPES:
        block = (np.arange(2 * 3 * 4) % (2 if dtype == "bool" else 100)).astype(dtype)
        block = block.reshape(2, 3, 4)
        large = np.resize(block, 2**18)
        single = np.array(3, dtype)
        arrays = [block, block.T, block[:, ::2], block[0, 1, 2:], block[:0], large]
        if dtype in COMPUTED:
            arrays += [block[1, 0, :1], single, single[()]]
        for array in arrays:
            var = jt.array(array)
            expected = array.reshape(array.shape or 1)  # Jittor has no arrays without axes
            for back in (var.numpy(), np.array(var.data)):
                if back.shape != expected.shape or not np.array_equal(back, expected):
                    return f"{dtype} of shape {array.shape} comes back as {back.ravel()[:3]}"
    index = jt.arange(5)[np.int64(3)].item()
    if index != 3:
        return f"the element of index 3 is that of index {index}"
    return ""
