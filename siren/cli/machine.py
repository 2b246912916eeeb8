"""What a run needs of the machine: Jittor on a device, enough memory, an engine that works."""

from __future__ import annotations

import argparse
import contextlib

from siren import memory, runtime, signals
from siren.cli.errors import Problem
from siren.cli.rehearsal import rehearse
from siren.engine import fall_back, get_engine
from siren.engine.workload import Workload, explanation, trial_stamp
from siren.runtime.paths import private_folder
from siren.tasks import TASKS


def start_jittor(options: argparse.Namespace) -> tuple[str, str]:
    """Import Jittor; returns the device, and the precision, which is never "auto".

    Raises Problem and RuntimeProblem.
    """
    device = runtime.start(options.device, options.verbose)
    if options.precision == "auto":
        return device, "fp16" if device == "cuda" else "fp32"
    if options.precision != "fp32" and device != "cuda":
        raise Problem(
            f"--precision {options.precision} needs a GPU; leave it out, or run with --device cuda "
            "to see why there is none"
        )
    return device, options.precision


def check_memory(options: argparse.Namespace, shape: tuple[int, int], device: str) -> None:
    """Raise Problem if training on a picture of ``shape`` (height, width) needs too much memory."""
    require_memory(memory_demand(options, shape, device))


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
        residual_norm=options.residual_norm,
        pointwise=task.pointwise(options.operator, options.residual_norm),
        cloning=task.order > 0 and options.mask_path is not None,
        optimizer=options.optimizer,
        engine=options.engine,
        device=device,
    )


def require_memory(demand: memory.Demand) -> None:
    """Raise Problem if a run needs more memory than this process can have."""
    shortage = memory.shortage(demand)
    if shortage is not None:
        raise Problem(
            f"the run needs about {_size(shortage.needed)} of memory, and {_size(shortage.free)} "
            f"are free; {_advice(demand, shortage.largest)}"
        )


def _advice(demand: memory.Demand, largest: str) -> str:
    """Which option to change if most of the memory is for ``largest``."""
    if largest == "network":
        return "try a smaller --hidden_features"
    if largest == "picture":
        return "try a smaller --sidelength"
    if demand.operator == "autograd" and demand.order > 0:
        return "try --operator forward, which needs much less, or --batch_points"
    if demand.engine != "fused":
        return "try --engine fused, which needs much less, or a smaller --batch_points"
    return "try a smaller --batch_points"


def _size(count: int) -> str:
    """``count`` bytes in MB or GB, as text."""
    unit, name = (1 << 30, "GB") if count >= 1 << 30 else (1 << 20, "MB")
    return f"{count / unit:.3g} {name}"


def choose_engine(options: argparse.Namespace, device: str):
    """The engine of ``--engine``, tried with every function that the training will use.

    On the first use on a machine a child process tries it: the child compiles the kernels, can be
    interrupted at any moment, and may crash.
    """
    return load_engine(options.engine, _workload(options), device)


def rehearse_once(program: str, options: argparse.Namespace, device: str, bits: int) -> None:
    """Rehearse the run with pictures of so many ``bits``, unless that has been done here before."""
    rehearse(program, options, device, bits, trial_stamp(_workload(options), device))


def _workload(options: argparse.Namespace) -> Workload:
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


def load_engine(name: str, workload: Workload, device: str):
    """The engine called ``name`` if it passes a trial of the workload, else the reference one."""
    if name == "fused" and workload.has_kernels and not runtime.under_mpirun():
        reason = _try_in_child(workload, device)
        if reason is not None:
            return fall_back(reason)
    with signals.shield_children():
        return get_engine(name, workload.precision, workload)


def _try_in_child(workload: Workload, device: str) -> str | None:
    """Why the fused engine fails a trial in a child; None if it works, or has before."""
    stamp = private_folder() / trial_stamp(workload, device)
    if stamp.exists():
        return None
    announcement = "Compiling kernels for this network, once on this machine ..."
    with runtime.Compilation(announcement, "kernels") as compilation:
        arguments = ["-m", "siren.engine.trial", workload.to_json(device)]
        child = runtime.run_interruptibly(arguments, read=compilation.read)
    reason = explanation(child.returncode, child.stdout)
    if reason is None:
        with contextlib.suppress(OSError):
            stamp.touch()
    return reason
