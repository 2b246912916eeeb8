"""Estimates how much of the host's memory a run needs, and compares it with what is free.

If it does not suffice, Jittor ends with a segmentation fault, so this is checked before, without
Jittor. A GPU whose memory does not suffice raises an error (``is_out_of_memory``). The factors were
measured (``tests/test_memory.py`` has some figures).
"""

from __future__ import annotations

import errno
import os
import re
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

FLOAT = 4  # bytes
LIBRARIES = 180 << 20  # Python, NumPy, SciPy, Jittor and the code of its operations
CUDA_LIBRARIES = 1 << 30  # the driver and the CUDA libraries, in the host's memory
POINTS_OF_STEP = 1 << 20  # more points are processed strip by strip, see ``training.gradient``
POINTS_OF_EVALUATION = 1 << 16  # see ``training.evaluation``
ROWS = 256  # of a thread of the CPU's kernels, see engine/cpu/siren.h

# How many parameter-sized arrays exist at once, without the kernels' own. LIVE: parameters, best
# parameters, gradient, moments. UPDATED: the new arrays of an update. SAVED: those of a state,
# which is copied twice on its way to the disk. None: drawing alone, without training.
LIVE = {"adam": 5, "muon": 6, None: 1}
UPDATED = {"adam": 3, "muon": 6, None: 0}
SAVED = {"adam": 12, "muon": 15, None: 3}

# Numbers of arrays (points of a step, width) per layer that plain Jittor keeps for a gradient: (per
# layer, per stream). For ``jittor.grad``, which also keeps those of its backward passes, by order:
# (per layer, per channel).
TRAINING_ACTIVATIONS = 2, 10
AUTOGRAD_ACTIVATIONS = {1: (10, 12), 2: (15, 60)}
EVALUATION_ACTIVATIONS = 2  # per stream, of one layer only
STREAMS = 1, 3, 4  # of the network, by the order of derivatives

GRID = 16  # arrays (pixels, channels) that a loss of the whole grid adds
# Arrays (points of a step, channels) in cloning with exact derivatives: streams, residuals ....
FIELD = 30


@dataclass(frozen=True)
class Demand:
    """What determines the memory of a run.

    shape         (height, width) of the picture
    points        number of training points
    batch_points  points per step; None: all
    arrays        float arrays (pixels, channels) for the picture, targets, scores and panels
    order         of the derivatives that are trained on
    pointwise     whether the loss is a mean over points; if not, it needs the whole grid
    cloning       whether pixels are supervised besides derivatives
    optimizer     "adam" or "muon"; None for a drawing of a trained network
    engine        "fused" or "reference"
    device        "cpu" or "cuda"

    The others are attributes of the network, and an operator and a norm by their names.
    """

    shape: tuple[int, int]
    points: int
    arrays: int
    batch_points: int | None = None
    channels: int = 1
    hidden_features: int = 256
    hidden_layers: int = 3
    order: int = 0
    operator: str = "forward"
    residual_norm: str = "operator"
    pointwise: bool = True
    cloning: bool = False
    optimizer: str | None = "adam"
    engine: str = "fused"
    device: str = "cpu"

    @property
    def uses_kernels(self) -> bool:
        """Whether the fused engine computes it; it has no kernels without hidden layers."""
        return self.engine == "fused" and self.hidden_layers > 0

    @property
    def values(self) -> int:
        """Number of values of the picture."""
        return self.shape[0] * self.shape[1] * self.channels

    @property
    def step(self) -> int:
        """The most points that are processed at once."""
        return min(self.batch_points or self.points, POINTS_OF_STEP)

    @property
    def parameters(self) -> int:
        """Number of weights and biases."""
        n = self.hidden_features
        return 3 * n + self.hidden_layers * n * (n + 1) + self.channels * (n + 1)


class Shortage(NamedTuple):
    """Bytes that a run needs and that are free, and what it needs most for (``estimate``)."""

    needed: int
    free: int
    largest: str


def shortage(demand: Demand) -> Shortage | None:
    """By how much the host's memory is too small; None if it suffices, as far as is known."""
    parts, free = estimate(demand), available()
    needed = sum(parts.values())
    if free is None or needed <= free:
        return None
    return Shortage(needed, free, max(parts.keys() - {"libraries"}, key=parts.__getitem__))


def estimate(demand: Demand) -> dict[str, int]:
    """Bytes of the host's memory that a run needs at its peak, by purpose.

    The purposes are "network", "picture", "step" (activations of a training step or an evaluation)
    and "libraries".
    """
    picture = FLOAT * demand.arrays * demand.values
    if demand.device == "cuda":
        network = SAVED[demand.optimizer] * FLOAT * demand.parameters
        libraries = LIBRARIES + CUDA_LIBRARIES
        return {"libraries": libraries, "picture": picture, "step": 0, "network": network}
    return {
        "libraries": LIBRARIES,
        "picture": picture + _grid(demand),
        "step": max(_evaluation(demand), _training(demand)),
        "network": _network(demand),
    }


def available() -> int | None:
    """Bytes of the host's memory that this process can still allocate; None if unknown."""
    limits = [*_meminfo(), *_cgroups(), *_resources()]
    return max(0, min(limits)) if limits else None


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


def _network(demand: Demand) -> int:
    """Arrays of parameters; packed ones, each thread's gradient and rows of the CPU's kernels."""
    optimizer, width = demand.optimizer, demand.hidden_features
    arrays = LIVE[optimizer] + max(UPDATED[optimizer], SAVED[optimizer])
    rows = 0
    if demand.uses_kernels:
        packed = 2 if width % 32 == 0 and width >= 64 else 1
        arrays += packed * (2 + (2 + _threads() if optimizer else 0))
        rows = _threads() * ROWS * (2 * demand.hidden_layers + 6) * width
    return FLOAT * (arrays * demand.parameters + rows)


def _evaluation(demand: Demand) -> int:
    """What plain Jittor allocates when it draws the picture."""
    if demand.uses_kernels:
        return 0
    points = min(demand.shape[0] * demand.shape[1], POINTS_OF_EVALUATION)
    streams = STREAMS[2 if demand.order else 0]
    return FLOAT * EVALUATION_ACTIVATIONS * points * demand.hidden_features * streams


def _training(demand: Demand) -> int:
    """What plain Jittor keeps of a training step."""
    if demand.optimizer is None:
        return 0
    layer = FLOAT * demand.step * demand.hidden_features * (demand.hidden_layers + 1)
    if demand.operator == "autograd" and demand.order > 0:
        per_layer, per_channel = AUTOGRAD_ACTIVATIONS[demand.order]
        return (per_layer + per_channel * demand.channels) * layer
    if not demand.uses_kernels:
        per_layer, per_stream = TRAINING_ACTIVATIONS
        streams = STREAMS[0 if demand.operator == "fd" else demand.order]
        return (per_layer + per_stream * streams) * layer
    if demand.cloning and demand.operator != "fd":
        return FLOAT * FIELD * demand.channels * demand.step
    return 0


def _grid(demand: Demand) -> int:
    """What a loss of the whole grid adds: values, residuals, matrices of the cosine transform."""
    if demand.pointwise:
        return 0
    transforms = sum(n * n for n in demand.shape) if demand.residual_norm != "operator" else 0
    return FLOAT * (GRID * demand.values + 2 * transforms)


def _threads() -> int:
    setting = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return int(setting) if setting.isdigit() else len(os.sched_getaffinity(0))


# ---- what is free -----------------------------------------------------------------------------


def _meminfo() -> list[int]:
    """Bytes that the kernel can provide without swapping."""
    match = re.search(r"^MemAvailable:\s*(\d+) kB", _text(Path("/proc/meminfo")), re.M)
    return [int(match[1]) << 10] if match else []


def _cgroups(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> list[int]:
    """Bytes left under the limits of this control group and its parents, of version 1 and 2."""
    left = []
    for line in _text(own).splitlines():
        controllers, name = line.split(":", 2)[1:]
        limit, used, cache, base = "memory.max", "memory.current", "inactive_file", root
        if controllers:  # version 1
            if "memory" not in controllers.split(","):
                continue
            limit, used, cache = "memory.limit_in_bytes", "memory.usage_in_bytes", f"total_{cache}"
            base = root / "memory"
        folder = Path(name.lstrip("/"))
        for group in [folder, *folder.parents]:
            most, taken = (_text(base / group / file).strip() for file in (limit, used))
            if not most.isdigit() or not taken.isdigit() or int(most) >= 1 << 60:  # no limit
                continue
            match = re.search(rf"^{cache} (\d+)", _text(base / group / "memory.stat"), re.M)
            reclaimable = int(match[1]) if match else 0
            left.append(int(most) - int(taken) + reclaimable)
    return left


def _resources() -> list[int]:
    """Bytes left under the limits that ``ulimit`` sets."""
    used = [
        int(pages) * resource.getpagesize() for pages in _text(Path("/proc/self/statm")).split()
    ]
    limits = (resource.getrlimit(limit)[0] for limit in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    pairs = zip(limits, used[::5])  # of all pages, and of those with data
    return [limit - taken for limit, taken in pairs if limit != resource.RLIM_INFINITY]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf8", errors="replace")
    except OSError:
        return ""
