"""What a run needs of the machine: Jittor on a device, enough memory, an engine that works."""

from __future__ import annotations

import argparse
import contextlib

from siren import memory, runtime, signals
from siren.cli.errors import Problem
from siren.cli.rehearsal import rehearse
from siren.engine import fall_back, get_engine
from siren.engine.use import Use, explanation, functions, trial_stamp
from siren.runtime.paths import private_folder
from siren.runtime.processes import local_rank


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
    points = options.points if options.task == "inpaint" and options.points else shape[0] * shape[1]
    require_memory(
        memory.Run(
            task=options.task,
            shape=shape,
            points=points,
            batch_points=options.batch_points,
            channels=options.channels,
            hidden_features=options.hidden_features,
            hidden_layers=options.hidden_layers,
            optimizer=options.optimizer,
            operator=options.operator,
            residual_norm=options.residual_norm,
            engine=options.engine,
            device=device,
            region=options.task == "edit" and options.mask_path is not None,
        )
    )


def require_memory(run: memory.Run) -> None:
    """Raise Problem if ``run`` needs more memory than this process can have."""
    problem = memory.problem(run, local_rank())
    if problem:
        raise Problem(problem)


def choose_engine(options: argparse.Namespace, device: str):
    """The engine of ``--engine``, tried with every function that the training will use.

    On the first use on a machine a child process tries it: the child compiles the kernels, can be
    interrupted at any moment, and may crash.
    """
    return load_engine(options.engine, _use(options), device)


def rehearse_once(program: str, options: argparse.Namespace, device: str, bits: int) -> None:
    """Rehearse the run with pictures of so many ``bits``, unless that has been done here before."""
    rehearse(program, options, device, bits, trial_stamp(_use(options), device))


def _use(options: argparse.Namespace) -> Use:
    return Use(
        precision=options.precision,
        width=options.hidden_features,
        layers=options.hidden_layers,
        channels=options.channels,
        omega_0=options.omega_0,
        muon=options.optimizer == "muon",
        **functions(
            options.task,
            options.operator,
            options.residual_norm,
            options.prior,
            options.mask_path is not None,
        ),
    )


def load_engine(name: str, use: Use, device: str):
    """The engine called ``name`` if it passes a trial of ``use``, else the reference engine."""
    if name == "fused" and use.has_kernels and not runtime.under_mpirun():
        reason = _try_in_child(use, device)
        if reason is not None:
            return fall_back(reason)
    with signals.shield_children():
        return get_engine(name, use.precision, use)


def _try_in_child(use: Use, device: str) -> str | None:
    """Why the fused engine fails a trial of ``use`` in a child; None if it works, or has before."""
    stamp = private_folder() / trial_stamp(use, device)
    if stamp.exists():
        return None
    announcement = "Compiling kernels for this network, once on this machine ..."
    with runtime.Compilation(announcement, "kernels") as compilation:
        arguments = ["-m", "siren.engine.trial", use.to_json(device)]
        child = runtime.run_interruptibly(arguments, read=compilation.read)
    reason = explanation(child.returncode, child.stdout)
    if reason is None:
        with contextlib.suppress(OSError):
            stamp.touch()
    return reason
