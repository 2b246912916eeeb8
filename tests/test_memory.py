"""What a run needs, what there is, and how both are told."""

import functools
import math
import resource

import pytest
from program import python

from siren import memory
from siren.cli import machine
from siren.cli.errors import Problem
from siren.cli.options import parse

MB = 1 << 20
GB = 1 << 30


def demand(task, side, device="cpu", **changes):
    options = parse(["--task", task, "--channels", "1"])
    vars(options).update(changes)
    return machine.memory_demand(options, (side, side), device)


def render(side, **settings):
    return memory.Demand((side, side), 0, 3, optimizer=None, **settings)


def free(monkeypatch, size):
    monkeypatch.setattr(memory, "available", lambda: size)
    monkeypatch.setenv("OMP_NUM_THREADS", "8")


TUNED = {"operator": "fd", "residual_norm": "pixel", "optimizer": "muon"}
MEASURED = [  # peak resident MB of main.py, or of its training step and 160, on two cores
    (demand("fit", 256), 152),
    (demand("fit", 1024), 180),
    (demand("fit", 2048, batch_points=16384), 242),
    (demand("fit", 64, hidden_features=2048), 1122),
    (demand("fit", 64, hidden_features=2048, optimizer="muon"), 1728),
    (demand("poisson", 1024, **TUNED), 318),
    (demand("edit", 1024, channels=3), 429),
    (demand("inpaint", 1024), 308),
    (demand("inpaint", 1024, channels=3), 441),
    (demand("fit", 128, engine="reference"), 771 + 160),
    (demand("edit", 128, engine="reference"), 2019 + 160),
    (demand("poisson", 128, engine="reference"), 2691 + 160),
    (demand("edit", 128, operator="autograd"), 1443 + 160),
    (demand("poisson", 96, operator="autograd"), 2704 + 160),
    (demand("edit", 96, operator="autograd", channels=3), 1677 + 160),
]


@pytest.mark.parametrize(("run", "measured"), MEASURED)
def test_the_estimate_is_near_what_was_measured(run, measured, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert 0.85 < memory.estimate(run) / (measured * MB) < 1.6


@pytest.mark.parametrize(
    ("run", "size", "advice"),
    [
        (demand("fit", 64, hidden_features=200_000), 16 * GB, "--hidden_features"),
        (demand("fit", 64, hidden_features=200_000), 1000 * GB, "--hidden_features"),
        (demand("fit", 64, hidden_features=30_000, hidden_layers=1), 64 * GB, "--hidden_features"),
        (demand("fit", 16384, channels=3), 8 * GB, "--sidelength"),
        (demand("poisson", 16384, **TUNED), 16 * GB, "--sidelength"),
        (demand("poisson", 256, operator="autograd"), 8 * GB, "--operator forward"),
        (demand("poisson", 1024, engine="reference"), 8 * GB, "--engine fused"),
        (render(16384, channels=3), 4 * GB, "--sidelength"),
        (demand("fit", 16384, "cuda", channels=3), 8 * GB, "--sidelength"),
    ],
)
def test_what_cannot_fit_is_refused_with_the_option_that_helps(run, size, advice, monkeypatch):
    free(monkeypatch, size)
    with pytest.raises(Problem) as caught:
        machine.require_memory(run)
    sentence = str(caught.value)
    assert advice in sentence
    assert machine._size(size) in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("run", "size"),
    [
        (demand("fit", 256), GB),
        (demand("edit", 256, channels=3), GB),
        (demand("poisson", 256, **TUNED), GB),
        (demand("fit", 8192, batch_points=262144), 4 * GB),
        (demand("fit", 256, hidden_features=1024), 2 * GB),
        (demand("edit", 512, operator="autograd", batch_points=4096), 2 * GB),
        (demand("fit", 256, engine="reference"), 8 * GB),
        (render(16384), 8 * GB),
        (demand("poisson", 1024, "cuda", engine="reference"), 2 * GB),  # a GPU raises an error
        (demand("fit", 16384, hidden_features=10_000), math.inf),  # not known
    ],
)
def test_what_fits_comfortably_is_not_refused(run, size, monkeypatch):
    free(monkeypatch, size)
    machine.require_memory(run)


def test_what_there_is():
    assert 64 * MB < memory.available() < 1 << 50


def test_limits_of_containers(tmp_path):
    """The tightest of the group and those around it; pages of files can be freed."""
    own, root = tmp_path / "own", tmp_path / "root"
    own.write_text("0::/pod/container\n")
    limits = {"": None, "pod": (8 * GB, 6 * GB), "pod/container": ("max", 2 * GB)}
    for group, values in limits.items():
        (root / group).mkdir(parents=True, exist_ok=True)
        for name, value in zip(("memory.max", "memory.current"), values or ()):
            (root / group / name).write_text(f"{value}\n")
    (root / "pod" / "memory.stat").write_text(f"anon 5\ninactive_file {GB}\nactive_file 7\n")
    assert memory._cgroups(root, own) == [3 * GB]

    assert memory._cgroups(tmp_path / "none", tmp_path / "nothing") == []


def test_a_limit_of_the_shell_counts():
    code = "from siren import memory; print(memory.available())"
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_AS, (GB, GB))
    assert 0 < int(python(code, preexec_fn=limit)) < GB


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
