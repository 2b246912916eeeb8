"""Estimates how much of the host's memory a run needs, and how much is free.

If it does not suffice, Jittor ends with a segmentation fault, so the two are compared beforehand,
without Jittor. A GPU whose memory does not suffice raises an error (``is_out_of_memory``). The
factors were measured (``tests/test_memory.py`` has some figures).
"""

from __future__ import annotations

import errno
import math
import os
import re
import resource
from dataclasses import dataclass
from pathlib import Path

from siren.runtime.environment import read_text

FLOAT = 4  # bytes
LIBRARIES = 180 << 20  # Python, NumPy, SciPy, Jittor and the code of its operations
POINTS_OF_STEP = 1 << 20  # more points are processed strip by strip, see ``training.gradient``
ROWS = 256  # of a thread of the CPU's kernels, see engine/cpu/siren.h

# How many parameter-sized arrays exist at once, without the kernels' own: parameters, best
# parameters, gradient, moments, and the copies of a state on its way to the disk. None: drawing.
PARAMETERS = {"adam": 17, "muon": 21, None: 4}
# Numbers of arrays (points of a step, width) per layer that plain Jittor keeps for a gradient: (per
# layer, per stream). For ``jittor.grad``, which also keeps those of its backward passes, by order:
# (per layer, per channel).
ACTIVATIONS = 2, 10
AUTOGRAD_ACTIVATIONS = {1: (10, 12), 2: (15, 60)}
STREAMS = 1, 3, 4  # of the network, by the order of derivatives
GRID = 16  # arrays (pixels, channels) that a loss of the whole grid adds


@dataclass(frozen=True)
class Demand:
    """What determines the memory of a run."""

    shape: tuple[int, int]  # (height, width) of the picture
    points: int  # number of training points
    arrays: int  # float arrays (pixels, channels) for the picture, targets, scores and panels
    batch_points: int | None = None  # points per step; None: all
    channels: int = 1  # of the network, as the next two
    hidden_features: int = 256
    hidden_layers: int = 3
    order: int = 0  # of the derivatives that are trained on
    operator: str = "forward"  # the name of one, for those derivatives
    pointwise: bool = True  # whether the loss is a mean over points; else it needs the whole grid
    optimizer: str | None = "adam"  # or "muon"; None for a drawing of a trained network
    engine: str = "fused"  # or "reference"
    device: str = "cpu"  # or "cuda"


def estimate(demand: Demand) -> int:
    """Bytes of the host's memory that a run needs at its peak."""
    height, width = demand.shape
    values = height * width * demand.channels
    needed = LIBRARIES + FLOAT * demand.arrays * values
    if demand.device == "cpu":
        needed += _network(demand) + _activations(demand)
        if not demand.pointwise:  # values, residuals, matrices of the cosine transform
            needed += FLOAT * (GRID * values + 2 * (height**2 + width**2))
    return needed


def available() -> float:
    """Bytes of the host's memory that this process can still allocate; infinite if unknown."""
    limits = [*_meminfo(), *_cgroups(), *_resources()]
    return max(0, min(limits, default=math.inf))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that the host's or a GPU's memory did not suffice."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    return re.search(_MESSAGES, str(error), re.IGNORECASE) is not None


_MESSAGES = (
    r"std::bad_alloc|out of memory|memory is overflow|unable to alloc|cannot allocate memory|"
    r"cudaErrorMemoryAllocation|ALLOC_FAILED"
)


# ---- what a run needs -------------------------------------------------------------------------


def _uses_kernels(demand: Demand) -> bool:
    """Whether the fused engine computes it; it has no kernels without hidden layers."""
    return demand.engine == "fused" and demand.hidden_layers > 0


def _network(demand: Demand) -> int:
    """Arrays of parameters; packed ones, each thread's gradient and rows of the CPU's kernels."""
    width, layers = demand.hidden_features, demand.hidden_layers
    setting = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    threads = int(setting) if setting.isdigit() else len(os.sched_getaffinity(0))
    parameters = 3 * width + layers * width * (width + 1) + demand.channels * (width + 1)
    arrays, rows = PARAMETERS[demand.optimizer], 0
    if _uses_kernels(demand):
        arrays += 2 * (2 + (2 + threads if demand.optimizer else 0))
        rows = threads * ROWS * (2 * layers + 6) * width
    return FLOAT * (arrays * parameters + rows)


def _activations(demand: Demand) -> int:
    """What plain Jittor keeps of a training step."""
    is_autograd = demand.operator == "autograd" and demand.order > 0
    if demand.optimizer is None or (_uses_kernels(demand) and not is_autograd):
        return 0
    if is_autograd:
        per_layer, per_channel = AUTOGRAD_ACTIVATIONS[demand.order]
        arrays = per_layer + per_channel * demand.channels
    else:
        per_layer, per_stream = ACTIVATIONS
        arrays = per_layer + per_stream * STREAMS[demand.order if demand.operator != "fd" else 0]
    points = min(demand.batch_points or demand.points, POINTS_OF_STEP)
    return FLOAT * arrays * points * demand.hidden_features * (demand.hidden_layers + 1)


# ---- what is free -----------------------------------------------------------------------------


def _meminfo() -> list[int]:
    """Bytes that the kernel can provide without swapping."""
    match = re.search(r"^MemAvailable:\s*(\d+) kB", read_text("/proc/meminfo"), re.M)
    return [int(match[1]) << 10] if match else []


def _cgroups(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> list[int]:
    """Bytes left under the limits of this control group (of version 2) and its parents."""
    match = re.search(r"^0::/(.*)$", read_text(own), re.M)
    if not match:
        return []
    left = []
    for group in [root / match[1], *(root / match[1]).parents]:
        limit, used = (read_text(group / f"memory.{name}").strip() for name in ("max", "current"))
        if limit.isdigit() and used.isdigit():  # else there is no limit
            cache = re.search(r"^inactive_file (\d+)", read_text(group / "memory.stat"), re.M)
            left.append(int(limit) - int(used) + (int(cache[1]) if cache else 0))
    return left


def _resources() -> list[int]:
    """Bytes left under the limit that ``ulimit -v`` sets."""
    limit, used = resource.getrlimit(resource.RLIMIT_AS)[0], read_text("/proc/self/statm").split()
    if limit == resource.RLIM_INFINITY or not used:
        return []
    return [limit - int(used[0]) * resource.getpagesize()]
