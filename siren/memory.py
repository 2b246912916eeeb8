"""Estimates the memory of a run, compares it with what is free, and says which option to reduce.

If the host's memory does not suffice, Jittor ends with a segmentation fault, so this is checked
before. It needs no Jittor. The factors were measured (``tests/test_memory.py`` has some figures).
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import resource
from dataclasses import dataclass
from pathlib import Path

FLOAT = 4  # bytes
LIBRARIES = 180 << 20  # Python, NumPy, SciPy, Jittor and the code of its operations
CUDA_ON_HOST = 1 << 30  # the driver and the CUDA libraries, in the host's memory
CUDA_ON_DEVICE = 600 << 20  # kernels, cuBLAS
POINTS_OF_STEP = 1 << 20  # more points are processed strip by strip, see ``training.gradient``
POINTS_OF_EVALUATION = 1 << 16  # see ``training.evaluation``
LAYER_OF_CHUNK = 1 << 26  # values, see ``chunk_values`` in engine/cuda/tuning.h

# Numbers of arrays of all parameters, without the kernels' own. LIVE: parameters, best parameters,
# gradient, moments. UPDATED: the new arrays of an update. SAVED: those of a state, which is copied
# twice on its way to the disk.
LIVE = {"adam": 5, "muon": 6}
UPDATED = {"adam": 3, "muon": 6}
SAVED = {"adam": 12, "muon": 15}

# Numbers of arrays (points of a step, width) per layer that plain Jittor keeps for a gradient: (per
# layer, per stream). For ``jittor.grad``, which also keeps those of its backward passes, by order:
# (per layer, per channel).
TRAINING_ACTIVATIONS = 2, 10
AUTOGRAD_ACTIVATIONS = {1: (10, 12), 2: (15, 60)}
EVALUATION_ACTIVATIONS = 2  # per stream, of one layer only

# Numbers of float arrays (pixels, channels): PICTURE for the picture, targets, scores and panels;
# GRID for what a loss of the whole grid adds.
PICTURE = {"fit": 6, "inpaint": 10, "edit": 20, "poisson": 16, "render": 3}
GRID = 16
# Arrays (points of a step, channels) in cloning with exact derivatives: streams, residuals ....
FIELD = 30


@dataclass(frozen=True)
class Run:
    """What determines the memory of a run; other names and values are those of main.py's options.

    shape         (height, width) of the picture
    points        number of training points
    batch_points  points per step; None: all
    device        "cpu" or "cuda"
    region        whether a region is cloned
    """

    task: str
    shape: tuple[int, int]
    points: int
    batch_points: int | None = None
    channels: int = 1
    hidden_features: int = 256
    hidden_layers: int = 3
    optimizer: str = "adam"
    operator: str = "forward"
    residual_norm: str = "operator"
    engine: str = "fused"
    device: str = "cpu"
    region: bool = False

    @property
    def uses_kernels(self) -> bool:
        """Whether the fused engine computes it; it has no kernels without hidden layers."""
        return self.engine == "fused" and self.hidden_layers > 0

    @property
    def order(self) -> int:
        """Order of the derivatives that are trained on."""
        return {"edit": 1, "poisson": 2}.get(self.task, 0)

    @property
    def pixels(self) -> int:
        """Number of pixels of the picture."""
        return self.shape[0] * self.shape[1]

    @property
    def parameters(self) -> int:
        """Number of weights and biases."""
        n = self.hidden_features
        return 3 * n + self.hidden_layers * n * (n + 1) + self.channels * (n + 1)

    @property
    def whole_grid(self) -> bool:
        """Whether the loss needs the network's values at all pixels together."""
        return needs_whole_grid(self.task, self.operator, self.residual_norm)


def needs_whole_grid(task: str, operator: str, residual_norm: str) -> bool:
    """Whether the loss needs the network's values at all pixels together.

    Otherwise it is a mean over points (``Task.pointwise``), and can be taken in batches.
    """
    pointwise = "pixel" if operator == "fd" else "operator"  # the norm of single points
    return task in ("edit", "poisson") and residual_norm != pointwise


def estimate(run: Run) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes that ``run`` needs at its peak: (on the host, on the GPU), each by purpose.

    The purposes are "network", "picture", "step" (activations of a training step or an evaluation)
    and "libraries". On a CPU the second dictionary is empty.
    """
    host = {"libraries": LIBRARIES, "picture": _picture(run), "step": 0, "network": 0}
    if run.device == "cpu":
        host["picture"] += _grid(run)
        host["step"] += _activations(run)
        host["network"] += _network(run) + _network_of_cpu_kernels(run)
        return host, {}
    host["libraries"] += CUDA_ON_HOST
    host["network"] += (3 if run.task == "render" else SAVED[run.optimizer]) * _array(run)
    device = {
        "libraries": CUDA_ON_DEVICE,
        "picture": _grid(run) + FLOAT * (4 + 2 * run.channels) * min(run.points, POINTS_OF_STEP),
        "step": _activations(run) + _chunks_of_gpu_kernels(run),
        "network": _network(run) + _network_of_gpu_kernels(run),
    }
    return host, device


def problem(run: Run, gpu: int = 0) -> str | None:
    """A sentence that says what is too small and which option to change; None if ``run`` fits.

    ``gpu`` is the number of the GPU that the run uses.
    """
    names = ("memory", "memory of the GPU")
    for name, parts, free in zip(names, estimate(run), available(run.device, gpu)):
        total = sum(parts.values())
        if free is None or total <= free:
            continue
        largest = max((part for part in parts if part != "libraries"), key=parts.__getitem__)
        return (
            f"the run needs about {_size(total)} of {name}, and {_size(free)} are free; "
            f"{_advice(run, largest)}"
        )
    return None


def available(device: str, gpu: int = 0) -> tuple[int | None, int | None]:
    """Bytes that this process can still allocate: (of the host's memory, of a GPU's).

    None if it cannot be determined, and for the GPU if ``device`` is "cpu".
    """
    limits = [_meminfo(), *_cgroups(), *_resources()]
    known = [limit for limit in limits if limit is not None]
    host = max(0, min(known)) if known else None
    return host, _gpu_memory(gpu) if device == "cuda" else None


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


def _array(run: Run) -> int:
    """Bytes of one array of all parameters."""
    return FLOAT * run.parameters


def _network(run: Run) -> int:
    """All arrays of parameters that exist at the same time, without the kernels' own."""
    if run.task == "render":
        return 4 * _array(run)
    optimizer = run.optimizer
    temporary = UPDATED[optimizer]
    if run.device == "cpu":
        temporary = max(temporary, SAVED[optimizer])
    return (LIVE[optimizer] + temporary) * _array(run)


def _network_of_cpu_kernels(run: Run) -> int:
    """The kernels' packed parameters, each thread's gradient and rows; see engine/cpu/siren.h."""
    if not run.uses_kernels:
        return 0
    packed = 2 if run.hidden_features % 32 == 0 and run.hidden_features >= 64 else 1
    threads = _threads()
    arrays = 2 * packed  # for evaluation
    if run.task != "render":
        arrays += (2 + threads) * packed
    rows = threads * 192 * (2 * run.hidden_layers + 6) * run.hidden_features
    return arrays * _array(run) + FLOAT * rows


def _network_of_gpu_kernels(run: Run) -> int:
    """Packed parameters as 2-byte values, also transposed, and partial gradients."""
    if not run.uses_kernels:
        return 0
    return 10 * _array(run) if run.task != "render" else 2 * _array(run)


def _chunks_of_gpu_kernels(run: Run) -> int:
    """Matrices of a chunk of points, of a training step and of an evaluation, 4 bytes per value.

    Evaluation keeps two layers at a time, training three matrices of every layer.
    """
    if not run.uses_kernels:
        return 0
    width = (run.hidden_features + 255) // 256 * 256

    def layer(points, streams):
        return min(points * streams * width, max(LAYER_OF_CHUNK, 128 * streams * width))

    evaluation = 2 * layer(min(run.pixels, POINTS_OF_EVALUATION), _streams(max(0, run.order)))
    if run.task == "render":
        return FLOAT * evaluation
    training = 3 * (run.hidden_layers + 1) * layer(_points_of_step(run), _streams(run.order))
    return FLOAT * (evaluation + training)


def _activations(run: Run) -> int:
    """What plain Jittor keeps of a training step, or allocates in an evaluation."""
    layers = run.hidden_layers + 1
    total = 0
    if not run.uses_kernels:
        points = min(run.pixels, POINTS_OF_EVALUATION)
        streams = _streams(2 if run.order else 0)
        total = EVALUATION_ACTIVATIONS * FLOAT * points * run.hidden_features * streams
    if run.task == "render":
        return total
    step = FLOAT * _points_of_step(run) * run.hidden_features * layers
    if run.operator == "autograd" and run.order > 0:
        per_layer, per_channel = AUTOGRAD_ACTIVATIONS[run.order]
        return max(total, (per_layer + per_channel * run.channels) * step)
    if not run.uses_kernels:
        per_layer, per_stream = TRAINING_ACTIVATIONS
        streams = _streams(0 if run.operator == "fd" else run.order)
        return max(total, (per_layer + per_stream * streams) * step)
    if run.region and run.operator != "fd":
        return max(total, FLOAT * FIELD * run.channels * _points_of_step(run))
    return total


def _points_of_step(run: Run) -> int:
    return min(run.batch_points or run.points, POINTS_OF_STEP)


def _streams(order: int) -> int:
    return (1, 3, 4)[order]


def _picture(run: Run) -> int:
    return FLOAT * PICTURE.get(run.task, max(PICTURE.values())) * run.channels * run.pixels


def _grid(run: Run) -> int:
    """What a loss of the whole grid adds: values, residuals, matrices of the cosine transform."""
    if not run.whole_grid:
        return 0
    transforms = sum(side * side for side in run.shape) if run.residual_norm != "operator" else 0
    return FLOAT * (GRID * run.channels * run.pixels + 2 * transforms)


def _advice(run: Run, largest: str) -> str:
    """Which option to change if most of the memory is for ``largest``."""
    if largest == "network":
        return "try a smaller --hidden_features"
    if largest == "picture":
        return "try a smaller --sidelength"
    if run.operator == "autograd" and run.order > 0:
        return "try --operator forward, which needs much less, or --batch_points"
    if run.engine != "fused":
        return "try --engine fused, which needs much less, or a smaller --batch_points"
    return "try a smaller --batch_points"


def _size(count: int) -> str:
    """``count`` bytes in MB or GB, as text."""
    unit, name = (1 << 30, "GB") if count >= 1 << 30 else (1 << 20, "MB")
    return f"{count / unit:.3g} {name}"


def _threads() -> int:
    setting = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return int(setting) if setting.isdigit() else len(os.sched_getaffinity(0))


# ---- what is free -----------------------------------------------------------------------------


def _meminfo(path: Path = Path("/proc/meminfo")) -> int | None:
    """Bytes that the kernel can provide without swapping."""
    match = re.search(r"^MemAvailable:\s*(\d+) kB", _text(path), re.M)
    return int(match[1]) << 10 if match else None


def _cgroups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list:
    """Bytes left under the limits of this control group and its parents, of version 1 and 2."""
    left = []
    for line in _text(own).splitlines():
        controllers, name = line.split(":", 2)[1:]
        if controllers and "memory" not in controllers.split(","):
            continue
        base = root if not controllers else root / "memory"
        limit, used = ("memory.max", "memory.current")
        cache = "inactive_file"
        if controllers:
            limit, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
            cache = "total_inactive_file"
        folder = Path(name.lstrip("/"))
        for group in [folder, *folder.parents]:
            most, taken = (_number(base / group / file) for file in (limit, used))
            if most is None or taken is None or most >= 1 << 60:
                continue
            match = re.search(rf"^{cache} (\d+)", _text(base / group / "memory.stat"), re.M)
            left.append(most - taken + (int(match[1]) if match else 0))  # cache can be reclaimed
    return left


def _resources() -> list[int]:
    """Bytes left under the limits that ``ulimit`` sets."""
    pages = [int(word) for word in _text(Path("/proc/self/statm")).split()]
    if len(pages) < 6:
        return []
    left = []
    for limit, used in ((resource.RLIMIT_AS, pages[0]), (resource.RLIMIT_DATA, pages[5])):
        most, _ = resource.getrlimit(limit)
        if most != resource.RLIM_INFINITY:
            left.append(most - used * resource.getpagesize())
    return left


def _gpu_memory(index: int) -> int | None:
    """Free bytes of a GPU, numbered as by CUDA. NVML reports them without creating a context."""
    try:
        cuda, nvml = ctypes.CDLL("libcuda.so.1"), ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    device, name, handle = ctypes.c_int(), ctypes.create_string_buffer(64), ctypes.c_void_p()
    total_free_used = (ctypes.c_ulonglong * 3)()
    if (
        cuda.cuInit(0)
        or cuda.cuDeviceGet(ctypes.byref(device), index)
        or cuda.cuDeviceGetPCIBusId(name, len(name), device)
        or nvml.nvmlInit_v2()
    ):
        return None
    try:
        if nvml.nvmlDeviceGetHandleByPciBusId_v2(name, ctypes.byref(handle)):
            return None
        if nvml.nvmlDeviceGetMemoryInfo(handle, total_free_used):
            return None
        return int(total_free_used[1])
    finally:
        nvml.nvmlShutdown()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf8", errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None
