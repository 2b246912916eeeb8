"""Describes the machine, for metrics.json."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from siren.runtime.cuda import gpu_name


@dataclass(frozen=True)
class Environment:
    """What a result was computed with: versions, device, and number of CPU threads."""

    python: str
    numpy: str
    jittor: str
    device: str
    device_name: str
    threads: int


def describe() -> Environment:
    """Versions, device and number of threads; call it after :func:`siren.runtime.start`."""
    import jittor as jt
    import numpy as np

    device = "cuda" if jt.flags.use_cuda else "cpu"
    return Environment(
        python=platform.python_version(),
        numpy=np.__version__,
        jittor=jt.__version__,
        device=device,
        device_name=gpu_name() if device == "cuda" else _cpu_name(),
        threads=_thread_count(),
    )


def cpu_fact(name: str) -> str:
    """A line of /proc/cpuinfo, as "model name" or "flags", of the first processor; "" if none."""
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf8", errors="replace")
        match = re.search(rf"^{name}\s*:\s*(.+)$", text, re.MULTILINE)
        if match:
            return match[1].strip()
    return ""


def _cpu_name() -> str:
    return cpu_fact("model name") or platform.processor() or platform.machine()


def _thread_count() -> int:
    try:
        return ctypes.CDLL("libgomp.so.1").omp_get_max_threads()  # the OpenMP of Jittor's kernels
    except OSError:
        return os.cpu_count() or 1
