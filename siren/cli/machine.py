"""What a run needs of the machine: Jittor on a device, enough memory, an engine that works."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from siren import memory, runtime, signals
from siren.cli.errors import Problem
from siren.cli.options import as_arguments
from siren.engine import get_engine
from siren.engine.workload import Workload, trial_facts
from siren.images import write_png
from siren.runtime.environment import try_each_once
from siren.runtime.machine import allow_amx
from siren.runtime.messages import Compilation, why_it_failed
from siren.runtime.processes import run_interruptibly, under_mpirun
from siren.tasks import TASKS

# Pixels. On a GPU Jittor compiles indexing once for up to 1024 elements, once for up to 4096 and
# once for more, of which the run will have; there is time for that there.
SIDES = {"cpu": 16, "cuda": 256}
WORTH = 1 << 20  # points in all passes: a shorter run is as good as its rehearsal
# What decides which operations a run meets, besides the network and the device.
DECISIVE = ["task", "operator", "residual_norm", "prior", "optimizer", "engine", "blend"]
DECISIVE += ["hold_out", "mask_path", "batch_points", "preview_every"]


def start_jittor(options: argparse.Namespace) -> tuple[str, str]:
    """Import Jittor; returns the device, and the precision, which is never "auto".

    Raises Problem.
    """
    device = runtime.start(options.device, options.verbose)
    if options.precision == "auto":
        return device, automatic_precision(device)
    if options.precision == "bf16x2" and (device == "cuda" or not allow_amx()):
        raise Problem(
            "--precision bf16x2 needs --device cpu and a processor with AMX, as Intel's have from "
            "Sapphire Rapids on; leave it out"
        )
    if options.precision in ("fp16", "bf16") and device != "cuda":
        raise Problem(
            f"--precision {options.precision} needs a GPU; leave it out, or run with --device cuda "
            "to see why there is none"
        )
    return device, options.precision


def automatic_precision(device: str) -> str:
    """What ``--precision auto`` means on a device."""
    if device == "cuda":
        return "fp16"
    return "bf16x2" if allow_amx() else "fp32"


def memory_demand(
    options: argparse.Namespace, shape: tuple[int, int], device: str
) -> memory.Demand:
    """What determines the memory of a training on a picture of ``shape`` (height, width)."""
    task = TASKS[options.task]
    return memory.Demand(
        shape=shape,
        points=options.points or shape[0] * shape[1],
        arrays=task.arrays,
        batch_points=options.batch_points,
        channels=options.channels,
        hidden_features=options.hidden_features,
        hidden_layers=options.hidden_layers,
        order=task.order,
        operator=options.operator,
        pointwise=task.pointwise(options.operator, options.residual_norm),
        optimizer=options.optimizer,
        engine=options.engine,
        device=device,
    )


def require_memory(demand: memory.Demand) -> None:
    """Raise Problem if a run needs more memory than this process can have."""
    needed, free = memory.estimate(demand), memory.available()
    is_training = demand.optimizer is not None
    if needed > free:
        raise Problem(
            f"the run needs about {_size(needed)} of memory, and {_size(free)} are free; try a "
            + ("smaller --sidelength" + ", --hidden_features or --batch_points" * is_training)
            + (", or --operator forward" if demand.operator == "autograd" else "")
            + (", or --engine fused" if demand.engine != "fused" else "")
        )


def _size(count: float) -> str:
    """``count`` bytes in MB or GB, as text."""
    unit, name = (1 << 30, "GB") if count >= 1 << 30 else (1 << 20, "MB")
    return f"{count / unit:.3g} {name}"


def workload(options: argparse.Namespace) -> Workload:
    """What the training of ``options`` will ask of an engine."""
    network = Workload(
        precision=options.precision,
        width=options.hidden_features,
        layers=options.hidden_layers,
        channels=options.channels,
        omega_0=options.omega_0,
        muon=options.optimizer == "muon",
    )
    return TASKS[options.task].workload(
        network,
        options.operator,
        options.residual_norm,
        options.prior,
        pixels=options.mask_path is not None,
    )


def load_engine(name: str, workload: Workload, device: str, later: Sequence[Workload] = ()):
    """The engine called ``name`` if it passes a trial of the workload, else the reference one.

    On the first use on a machine a child process tries it: the child compiles the kernels, can be
    interrupted at any moment, and may crash. The workloads of ``later`` runs are tried with it,
    because kernels compile at the same time.
    """

    def try_in_child(workload: Workload) -> str | None:
        cases = [workload, *(replace(each, precision=workload.precision) for each in later)]
        cases = [(trial_facts(each, device), each) for each in cases]
        reason = try_each_once("trial", cases, partial(_why_it_fails, device))
        if reason and later:  # the fault may be in another run's kernels
            reason = try_each_once("trial", cases[:1], partial(_why_it_fails, device))
        return reason

    if name == "fused" and not under_mpirun():
        return get_engine(name, workload.precision, workload, try_in_child)
    with signals.shield_children():
        return get_engine(name, workload.precision, workload)


def _why_it_fails(device: str, workloads: list[Workload]) -> str | None:
    announcement = "Compiling kernels, once on this machine ..."
    with Compilation(announcement, "kernels") as compilation:
        arguments = ["-m", "siren.engine.trial", *(each.to_json(device) for each in workloads)]
        child = run_interruptibly(arguments, read=compilation.read)
    return why_it_failed(child.returncode, child.stdout) if child.returncode else None


# ---- rehearsal --------------------------------------------------------------------------------


def rehearse(
    program: str, runs: list[tuple[argparse.Namespace, int]], device: str, precision: str
) -> None:
    """Call ``program`` with each run in miniature, unless that has been done.

    Jittor compiles an operation when it first meets it. In a child process, that can be interrupted
    at any moment, and the parent shows how far it has come. ``runs`` are pairs (options, bits of
    the pictures), of which all have that ``precision``. Whatever goes wrong in the rehearsal is for
    the run itself to report.
    """
    if under_mpirun():
        return
    cases = []
    for options, bits in runs:
        options = argparse.Namespace(**{**vars(options), "precision": precision})
        if options.epochs * options.sidelength**2 >= WORTH:
            values = (getattr(options, name) for name in DECISIVE)
            decisive = [v if isinstance(v, (str, type(None))) else bool(v) for v in values]
            facts = [trial_facts(workload(options), device), bits, decisive]
            cases.append((facts, (options, bits)))
    try_each_once("rehearsal", cases, partial(_rehearse, program, device))


# One process for all, because its start takes longer than a small run.
_PROGRAM = """\
import json, runpy, sys
program, *runs = sys.argv[1:]
for run in runs:
    sys.argv[1:] = json.loads(run)
    try:
        runpy.run_path(program, run_name="__main__")
    except SystemExit:
        pass
"""


def _rehearse(program: str, device: str, runs: list[tuple[argparse.Namespace, int]]) -> str | None:
    announcement = "Compiling the remaining operations, once on this machine ..."
    with (
        tempfile.TemporaryDirectory() as folder,
        Compilation(announcement, "operations") as compilation,
    ):
        arguments = []
        for number, (options, bits) in enumerate(runs):
            own = Path(folder, str(number))
            own.mkdir()
            small = in_miniature(options, own, bits, SIDES[device])
            arguments.append(json.dumps(as_arguments(small)))
        child = run_interruptibly(["-c", _PROGRAM, program, *arguments], read=compilation.read)
    # After a crash, the runs that had not begun are still to be rehearsed.
    return why_it_failed(child.returncode, child.stdout) if child.returncode else None


def in_miniature(
    options: argparse.Namespace, folder: Path, bits: int, side: int
) -> argparse.Namespace:
    """The same run in a few passes over noise, which is written to ``folder``, as its results."""
    small = argparse.Namespace(**vars(options))
    noise = np.random.default_rng(0).uniform(-1, 1, (side, side, options.channels))
    write_png(folder / "noise.png", noise.astype(np.float32), bits=bits)
    small.input_path = small.ot_image_path = folder / "noise.png"
    if options.mask_path is not None:
        mask = np.full((side, side, 1), -1, np.float32)
        mask[side // 4 : side // 2, side // 4 : side // 2] = 1
        small.mask_path = folder / "mask.png"
        write_png(small.mask_path, mask)
    small.output_dir = folder / "output"
    small.sidelength, small.aspect, small.offset = side, "square", (0, 0)
    small.range = None
    small.points = options.points and side * side // 4
    small.batch_points = options.batch_points and side * side // 8
    small.preview_every = min(options.preview_every, 1)
    small.epochs, small.resume = 3, False  # the prior follows the picture from the second on
    return small
