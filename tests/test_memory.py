"""What a run needs, what there is, and how both are told."""

import dataclasses
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from siren import memory
from siren.memory import Run

ROOT = Path(__file__).resolve().parent.parent
MB = 1 << 20
GB = 1 << 30


def fit(side, **settings):
    return Run("fit", (side, side), side * side, **settings)


def poisson(side, **settings):
    return dataclasses.replace(fit(side, **settings), task="poisson")


def edit(side, **settings):
    return dataclasses.replace(fit(side, **settings), task="edit")


TUNED = {"operator": "fd", "residual_norm": "pixel", "optimizer": "muon"}
MEASURED = [  # peak resident MB of main.py, or of its training step and 160, on two cores
    (fit(256), 152),
    (fit(1024), 180),
    (fit(2048, batch_points=16384), 242),
    (fit(64, hidden_features=2048), 1122),
    (fit(64, hidden_features=2048, optimizer="muon"), 1728),
    (poisson(1024, **TUNED), 318),
    (edit(1024, channels=3), 429),
    (edit(768, region=True), 292),
    (edit(768, channels=3, region=True), 553),
    (edit(768, channels=3, region=True, **TUNED), 339),
    (fit(128, engine="reference"), 771 + 160),
    (edit(128, engine="reference"), 2019 + 160),
    (poisson(128, engine="reference"), 2691 + 160),
    (edit(128, operator="autograd"), 1443 + 160),
    (poisson(96, operator="autograd"), 2704 + 160),
    (edit(96, operator="autograd", channels=3), 1677 + 160),
]


@pytest.mark.parametrize(("run", "measured"), MEASURED)
def test_the_estimate_is_near_what_was_measured(run, measured, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    host, device = memory.estimate(run)
    assert 0.85 < sum(host.values()) / (measured * MB) < 1.6
    assert device == {}


@pytest.mark.parametrize(
    ("run", "free", "advice"),
    [
        (fit(64, hidden_features=200_000), 16 * GB, "--hidden_features"),
        (fit(64, hidden_features=200_000), 1000 * GB, "--hidden_features"),
        (fit(64, hidden_features=30_000, hidden_layers=1), 64 * GB, "--hidden_features"),
        (fit(16384, channels=3), 8 * GB, "--sidelength"),
        (poisson(16384, **TUNED), 16 * GB, "--sidelength"),
        (poisson(256, operator="autograd"), 8 * GB, "--operator forward"),
        (poisson(1024, engine="reference"), 8 * GB, "--engine fused"),
        (Run("render", (16384, 16384), 0, channels=3), 4 * GB, "--sidelength"),
    ],
)
def test_what_cannot_fit_is_refused_with_the_option_that_helps(run, free, advice, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda *_: (free, None))
    sentence = memory.problem(run)
    assert advice in sentence
    assert memory._size(free) in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("run", "free"),
    [
        (fit(256), GB),
        (edit(256, channels=3), GB),
        (poisson(256, **TUNED), GB),
        (fit(8192, batch_points=262144), 4 * GB),
        (fit(256, hidden_features=1024), 2 * GB),
        (edit(512, operator="autograd", batch_points=4096), 2 * GB),
        (fit(256, engine="reference"), 8 * GB),
        (Run("render", (16384, 16384), 0), 8 * GB),
    ],
)
def test_what_fits_comfortably_is_not_refused(run, free, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    monkeypatch.setattr(memory, "available", lambda *_: (free, None))
    assert memory.problem(run) is None


def test_a_gpu_has_to_have_room_too(monkeypatch):
    run = fit(2048, device="cuda", hidden_features=1024)
    for free, words in ((80 * GB, None), (2 * GB, "2 GB are free"), (None, None)):
        monkeypatch.setattr(memory, "available", lambda *_, free=free: (64 * GB, free))
        sentence = memory.problem(run)
        assert sentence is None if words is None else words in sentence
    assert memory.problem(fit(256, device="cuda")) is None


def test_nothing_is_refused_where_nothing_is_known(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda *_: (None, None))
    assert memory.problem(fit(16384, hidden_features=10_000)) is None


def test_what_there_is():
    host, gpu = memory.available("cpu")
    assert 64 * MB < host < 1 << 50
    assert gpu is None


def test_limits_of_containers(tmp_path):
    """Of version 2, the tightest of the group and those around it; pages of files can be freed."""
    own, root = tmp_path / "own", tmp_path / "root"
    own.write_text("0::/pod/container\n")
    limits = {"": None, "pod": (8 * GB, 6 * GB), "pod/container": ("max", 2 * GB)}
    for group, values in limits.items():
        (root / group).mkdir(parents=True, exist_ok=True)
        for name, value in zip(("memory.max", "memory.current"), values or ()):
            (root / group / name).write_text(f"{value}\n")
    (root / "pod" / "memory.stat").write_text(f"anon 5\ninactive_file {GB}\nactive_file 7\n")
    assert memory._cgroups(root, own) == [3 * GB]

    own.write_text("5:cpu,cpuacct:/x\n4:memory:/job\n")
    (root / "memory" / "job").mkdir(parents=True)
    (root / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    (root / "memory" / "memory.usage_in_bytes").write_text("1\n")
    (root / "memory" / "job" / "memory.limit_in_bytes").write_text(f"{4 * GB}\n")
    (root / "memory" / "job" / "memory.usage_in_bytes").write_text(f"{GB}\n")
    assert memory._cgroups(root, own) == [3 * GB]
    assert memory._cgroups(tmp_path / "none", tmp_path / "nothing") == []


def test_a_limit_of_the_shell_counts():
    code = "from siren import memory; print(memory.available('cpu')[0])"
    child = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (GB, GB)),
    )
    assert 0 < int(child.stdout) < GB


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (OSError(12, "Cannot allocate memory"), True),
        (OSError(28, "No space left on device"), False),
        (RuntimeError("Execute fused operator(3/6) failed. \n[Reason]: std::bad_alloc\n"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("Unable to alloc cuda device memory for size[68719476736]"), True),
        (RuntimeError("GPU memory is overflow, please reduce your batch_size"), True),
        (RuntimeError("code=2( cudaErrorMemoryAllocation ) cudaMalloc(&ptr, size)"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("fatal error: omp.h: No such file"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_which_errors_are_for_want_of_memory(error, expected):
    assert memory.is_out_of_memory(error) is expected
