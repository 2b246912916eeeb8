"""What memory a run will need, what there is, and which option to change. Without Jittor.

Jittor ends with a segmentation fault where the host's memory does not suffice, so that it has to be
known before. The factors were measured (``tests/test_memory.py`` has some of the figures).
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
CUDA_ON_HOST = 1 << 30  # the driver's and the CUDA libraries' part of that
CUDA_ON_DEVICE = 600 << 20  # kernels, cuBLAS
POINTS_OF_STEP = 1 << 20  # more are taken strip by strip, see ``training.gradient``
POINTS_OF_EVALUATION = 1 << 16  # see ``training.evaluation``
LAYER_OF_CHUNK = 1 << 26  # numbers, see ``chunk_values`` in siren_cuda.h

# Arrays of all parameters besides the kernels': parameters, best ones, gradient, moments, and what
# an update makes before it takes their place; a state is copied twice on its way to the disk.
LIVE = {"adam": 5, "muon": 6}
UPDATED = {"adam": 3, "muon": 6}
SAVED = {"adam": 12, "muon": 15}

# Arrays (points of a step, width) of each layer that plain Jittor keeps for a gradient: some, and
# so many for each stream. Derivatives by ``jittor.grad`` keep those of the way back too, so many
# for each channel.
KEPT = 2, 10
KEPT_BY_AUTOGRAD = {1: (10, 12), 2: (15, 60)}
KEPT_WITHOUT_GRADIENT = 2  # of one layer, for each stream

# Arrays of one float a pixel and channel: the picture, its targets, scores and panels; and what a
# loss of the whole grid adds.
PICTURE = {"fit": 6, "inpaint": 10, "edit": 20, "poisson": 16, "render": 3}
GRID = 16


@dataclass(frozen=True)
class Run:
    """What decides how much memory a run needs; names and values are those of main.py's options.

    shape   (height, width) of the picture
    points  that are trained on; of these a step looks at ``batch_points``, None: at all
    device  "cpu" or "cuda"
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

    @property
    def order(self) -> int:
        """Of the derivatives that are trained on."""
        return {"edit": 1, "poisson": 2}.get(self.task, 0)

    @property
    def pixels(self) -> int:
        """Of the picture."""
        return self.shape[0] * self.shape[1]

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        n = self.hidden_features
        return 3 * n + self.hidden_layers * n * (n + 1) + self.channels * (n + 1)

    @property
    def whole_grid(self) -> bool:
        """Whether the loss is one of all pixels together."""
        return self.order > 0 and (self.operator == "fd" or self.residual_norm != "operator")


def needed(run: Run) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes that ``run`` needs at its peak, on the host and on the GPU, by what needs them.

    "network", "picture", "step" (the activations of a training step or an evaluation), "libraries".
    On a CPU the second one is empty.
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
    """A sentence about what ``run`` lacks and which option to reduce, or None if it fits.

    ``gpu`` is the number of the GPU that it takes.
    """
    names = ("memory", "memory of the GPU")
    for name, parts, there in zip(names, needed(run), available(run.device, gpu)):
        total = sum(parts.values())
        if there is None or total <= there:
            continue
        largest = max((part for part in parts if part != "libraries"), key=parts.__getitem__)
        return (
            f"the run needs about {_size(total)} of {name}, and {_size(there)} are free; "
            f"{_advice(run, largest)}"
        )
    return None


def available(device: str, gpu: int = 0) -> tuple[int | None, int | None]:
    """Bytes that this process can still take, of the host's memory and of a GPU's.

    None where that cannot be found out, and for the GPU of a run on the "cpu".
    """
    limits = [_meminfo(), *_cgroups(), *_resources()]
    known = [limit for limit in limits if limit is not None]
    host = max(0, min(known)) if known else None
    return host, _gpu_memory(gpu) if device == "cuda" else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory, the host's or a GPU's, did not suffice."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    return re.search(_MESSAGES, str(error), re.IGNORECASE) is not None


_MESSAGES = (
    r"std::bad_alloc|out of memory|memory is overflow|unable to alloc|cannot allocate memory|"
    r"cudaErrorMemoryAllocation|ALLOC_FAILED"
)


# ---- what is needed ---------------------------------------------------------------------------


def _array(run: Run) -> int:
    """One array of all parameters."""
    return FLOAT * run.parameters


def _network(run: Run) -> int:
    """All arrays of parameters that are there at the same time, but for the kernels' own."""
    if run.task == "render":
        return 4 * _array(run)
    optimizer = run.optimizer
    more = UPDATED[optimizer]
    if run.device == "cpu":
        more = max(more, SAVED[optimizer])
    return (LIVE[optimizer] + more) * _array(run)


def _network_of_cpu_kernels(run: Run) -> int:
    """Parameters as the kernels pack them, and each thread's gradient; see siren_cpu.h."""
    if run.engine != "fused":
        return 0
    packed = 2 if run.hidden_features % 32 == 0 and run.hidden_features >= 64 else 1
    threads = _threads()
    arrays = 2 * packed  # of evaluation
    if run.task != "render":
        arrays += (2 + threads) * packed
    rows = threads * 192 * (2 * run.hidden_layers + 6) * run.hidden_features
    return arrays * _array(run) + FLOAT * rows


def _network_of_gpu_kernels(run: Run) -> int:
    """Packed parameters in pieces of 2 bytes, both ways round, and shares of the gradient."""
    if run.engine != "fused":
        return 0
    return 10 * _array(run) if run.task != "render" else 2 * _array(run)


def _chunks_of_gpu_kernels(run: Run) -> int:
    """Matrices of a chunk of points, of a training step and of an evaluation, at 4 bytes a number.

    Evaluation keeps two layers at a time, training three matrices of each.
    """
    if run.engine != "fused":
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
    """What plain Jittor keeps of a step, or makes of an evaluation."""
    layers = run.hidden_layers + 1
    total = 0
    if run.engine != "fused":
        points = min(run.pixels, POINTS_OF_EVALUATION)
        streams = _streams(2 if run.order else 0)
        total = KEPT_WITHOUT_GRADIENT * FLOAT * points * run.hidden_features * streams
    if run.task == "render":
        return total
    step = FLOAT * _points_of_step(run) * run.hidden_features * layers
    if run.operator == "autograd" and run.order > 0:
        some, of_channel = KEPT_BY_AUTOGRAD[run.order]
        return max(total, (some + of_channel * run.channels) * step)
    if run.engine != "fused":
        some, of_stream = KEPT
        streams = _streams(0 if run.operator == "fd" else run.order)
        return max(total, (some + of_stream * streams) * step)
    return total


def _points_of_step(run: Run) -> int:
    return min(run.batch_points or run.points, POINTS_OF_STEP)


def _streams(order: int) -> int:
    return (1, 3, 4)[order]


def _picture(run: Run) -> int:
    return FLOAT * PICTURE.get(run.task, max(PICTURE.values())) * run.channels * run.pixels


def _grid(run: Run) -> int:
    """What a loss of the whole grid adds: values and residuals, and the cosine transforms'."""
    if not run.whole_grid:
        return 0
    transforms = sum(side * side for side in run.shape) if run.residual_norm != "operator" else 0
    return FLOAT * (GRID * run.channels * run.pixels + 2 * transforms)


def _advice(run: Run, largest: str) -> str:
    """Which option to change where most of the memory is for ``largest``."""
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
    """Bytes for people."""
    unit, name = (1 << 30, "GB") if count >= 1 << 30 else (1 << 20, "MB")
    return f"{count / unit:.3g} {name}"


def _threads() -> int:
    with_openmp = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return int(with_openmp) if with_openmp.isdigit() else len(os.sched_getaffinity(0))


# ---- what there is ----------------------------------------------------------------------------


def _meminfo(path: Path = Path("/proc/meminfo")) -> int | None:
    """What the kernel could give without swapping."""
    match = re.search(r"^MemAvailable:\s*(\d+) kB", _text(path), re.M)
    return int(match[1]) << 10 if match else None


def _cgroups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list:
    """What is left of the limits of the container, and of those around it, of either version."""
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
            left.append(most - taken + (int(match[1]) if match else 0))
    return left


def _resources() -> list[int]:
    """What is left of the limits that ``ulimit`` sets."""
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
    """Free bytes of a GPU, numbered as CUDA does, by the driver's meters: no context is made."""
    try:
        cuda, meters = ctypes.CDLL("libcuda.so.1"), ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    device, name, handle = ctypes.c_int(), ctypes.create_string_buffer(64), ctypes.c_void_p()
    total_free_used = (ctypes.c_ulonglong * 3)()
    if (
        cuda.cuInit(0)
        or cuda.cuDeviceGet(ctypes.byref(device), index)
        or cuda.cuDeviceGetPCIBusId(name, len(name), device)
        or meters.nvmlInit_v2()
    ):
        return None
    try:
        if meters.nvmlDeviceGetHandleByPciBusId_v2(name, ctypes.byref(handle)):
            return None
        if meters.nvmlDeviceGetMemoryInfo(handle, total_free_used):
            return None
        return int(total_free_used[1])
    finally:
        meters.nvmlShutdown()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf8", errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None
