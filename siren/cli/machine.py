"""The machine that a run gets: Jittor on its device, and an engine that works there."""

from __future__ import annotations

import argparse
import contextlib

from siren import memory, runtime, signals
from siren.cli.errors import Problem
from siren.engine import fall_back, get_engine
from siren.engine.use import Use, explanation, functions, trial_stamp
from siren.runtime.paths import private_folder
from siren.runtime.processes import local_rank


def start_jittor(options: argparse.Namespace) -> str:
    """Import Jittor; returns the device, and decides ``options.precision`` by it.

    Raises Problem and RuntimeProblem.
    """
    device = runtime.start(options.device, options.verbose)
    if options.precision == "auto":
        options.precision = "fp16" if device == "cuda" else "fp32"
    elif options.precision != "fp32" and device != "cuda":
        raise Problem(
            f"--precision {options.precision} is for a GPU; leave it out, or find out with "
            "--device cuda why there is none"
        )
    return device


def check_memory(options: argparse.Namespace, shape: tuple[int, int], device: str) -> None:
    """Raise Problem if a training on a picture of ``shape`` (height, width) cannot fit."""
    points = options.points if options.task == "inpaint" and options.points else shape[0] * shape[1]
    problem = memory.problem(
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
        ),
        local_rank(),
    )
    if problem:
        raise Problem(problem)


def choose_engine(options: argparse.Namespace, device: str):
    """The engine of ``--engine``, tried with all that the training will use.

    The first time that this is done on a machine, a process of its own does it: it compiles the
    kernels, which can be interrupted there at any moment, and may crash.
    """
    use = Use(
        precision=options.precision,
        width=options.hidden_features,
        layers=options.hidden_layers,
        channels=options.channels,
        omega_0=options.omega_0,
        muon=options.optimizer == "muon",
        **functions(options.task, options.operator, options.residual_norm, options.prior),
    )
    return engine_for(options.engine, use, device)


def engine_for(name: str, use: Use, device: str):
    """The engine called ``name`` if it can do what ``use`` says, else the reference engine."""
    stamp = private_folder() / trial_stamp(use, device)
    if name == "fused" and not runtime.under_mpirun() and not stamp.exists():
        child = runtime.run_interruptibly(
            ["-m", "siren.engine.trial", use.to_json(device)],
            announcement="Compiling kernels for this network, once on this machine ...",
        )
        reason = explanation(child.returncode, child.stdout)
        if reason is not None:
            return fall_back(reason)
        with contextlib.suppress(OSError):
            stamp.touch()
    with signals.sheltered():
        return get_engine(name, use.precision, use)
