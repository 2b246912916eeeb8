"""All four experiments in one call: what they will take, one after the other, what they reached."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import numpy as np

from siren import runtime
from siren.cli.errors import Outcome, Problem, overall_status, run_safely
from siren.cli.machine import choose_engine, start_jittor
from siren.cli.options import display_path, identity_options, parse
from siren.cli.recipes import EXACT, resolve, training_points
from siren.cli.several import (
    NOT_BEGUN,
    check_run,
    input_files,
    make_runs,
    run_several,
    update_page,
)
from siren.output.report import read_metrics
from siren.signals import Stop
from siren.tasks import TASKS
from siren.text import SCORE_NAMES, align, duration, printable, score_cells
from siren.training.progress import followed_by

SIDE = 128  # of the picture whose points are a step that is measured
# Products of matrices in a step, relative to those of a loss of values: h, z and their gradients
# for each stream, of which a gradient has 3, a Laplacian 4.
_STREAMS = {0: 1.0, 1: 3.2, 2: 4.3}
_PRIOR_POINTS = 17000  # that many points of a loss of values take as long as a prior
_MUON, _STEP = 5e-3, 1e-3  # seconds of Muon, and of anything else, in every step on a CPU
_AROUND = 3.0  # seconds before and after each training
# The time of an epoch does not depend on these, and the number of epochs is accounted for.
_UNCOUNTED = ("epochs", "seed", "lr", "muon_lr", "input_path", "ot_image_path", "precision")


def run_all(options: argparse.Namespace, run: Callable) -> int:
    """Call ``run(options, stop)`` for each of ``options.experiments``; returns the exit status.

    Bad input is found before the first training. A failure does not stop the experiments after it.
    """
    if runtime.world_size() > 1:
        raise Problem("--task all runs in one process; under mpirun give one task at a time")
    groups = [make_runs(each) for each in options.experiments]
    files = [path for group in groups for path in input_files(group)]
    checked = [[check_run(each, files) for each in group] for group in groups]
    expected = _announce(groups)
    stop = Stop()
    outcomes = []
    for number, (each, group) in enumerate(zip(options.experiments, groups)):
        if stop():
            outcomes.append(NOT_BEGUN)
            continue
        print(f"== {each.task}, {number + 1} of {len(groups)}", flush=True)
        with followed_by(sum(expected[number + 1 :])):
            outcomes.append(_run_group(run, each, group, checked[number], stop))
    print(_table(options.experiments, outcomes), flush=True)
    update_page(options.output_dir, several=True)
    return overall_status(outcomes)


def _run_group(run: Callable, options, group: list, checked: list, stop: Stop) -> Outcome:
    """The outcome of one experiment, on one picture or on several; errors are reported."""
    if len(group) == 1:
        return checked[0] or run_safely(run, group[0], stop, options.task)

    def run_pictures(options, stop):
        status = run_several(options, group, checked, run, stop)
        return Outcome(status, f"{len(group)} pictures")

    return run_safely(run_pictures, options, stop, options.task)


# ---- what is said before and after ------------------------------------------------------------


def _announce(groups: list[list[argparse.Namespace]]) -> list[float]:
    """Print what will be done and how long it takes, about; returns the seconds of each group."""
    experiments = [group[0] for group in groups]
    expected = [by_last_run(each) for each in experiments]
    speed = None
    if None in expected:
        print("Measuring a few steps ...", flush=True)
        of_values = next(each for each in experiments if not TASKS[each.task].order)
        speed = measure(of_values, *start_jittor(of_values))
        expected = [
            by_steps(each, speed) if known is None else known
            for each, known in zip(experiments, expected)
        ]
    expected = [seconds * len(group) for seconds, group in zip(expected, groups)]
    rows = [
        (each.task, f"{each.epochs} epochs", duration(seconds), display_path(each.output_dir))
        for each, seconds in zip(experiments, expected)
    ]
    print("Four experiments, one after the other, and about how long they take here:")
    print(align([*rows, ("all", "", duration(sum(expected)), "")], right=(1, 2)))
    if speed is not None and experiments[0].recipe == "report":
        tuned = parse(["--task", "all", "--recipe", "tuned"]).experiments
        seconds = sum(by_steps(each, speed) for each in tuned)
        print(f"./run.sh tuned takes about {duration(seconds)} and makes better pictures.")
    return expected


def _table(experiments: list[argparse.Namespace], outcomes: list[Outcome]) -> str:
    """The scores of all experiments, and what to look at."""
    rows = [("task", *SCORE_NAMES, "look at", "")]
    for options, outcome in zip(experiments, outcomes):
        folder = display_path(options.output_dir)
        rows.append(
            (
                options.task,
                *score_cells(outcome),
                f"{folder}/panel.png" if outcome.psnr is not None else folder,
                "" if outcome.ended == "finished" else printable(outcome.ended),
            )
        )
    return align(rows, right=(1, 2, 3))


# ---- how long it will take ---------------------------------------------------------------------


def by_last_run(options: argparse.Namespace) -> float | None:
    """Seconds, if the same settings were trained in the same folder to the end; else None."""
    metrics = read_metrics(options.output_dir)
    if metrics is None or metrics["ended"] != "finished" or not metrics["seconds"]:
        return None
    now, before = identity_options(_resolved(options)), metrics["options"]
    if any(now[name] != before.get(name) for name in now.keys() - set(_UNCOUNTED)):
        return None
    try:
        device, epochs = metrics["runtime"]["device"], int(metrics["epochs"])
        training = metrics["seconds"] - float(metrics["seconds_first_epoch"])  # which compiles
    except (LookupError, TypeError, ValueError):  # the file is damaged
        return None
    if epochs < 1 or options.device not in ("auto", device):
        return None
    return training * options.epochs / epochs + _AROUND


def by_steps(options: argparse.Namespace, seconds_per_point: float) -> float:
    """Seconds, given those of each point in a step of ``measure``."""
    options = _resolved(options)
    points = training_points(options, options.sidelength**2, _left_by_mask(options))
    order = TASKS[options.task].order if options.operator in EXACT else 0
    steps = math.ceil(points / (options.batch_points or points))
    work = points * _STREAMS[order] + (_PRIOR_POINTS if options.prior != "none" else 0)
    overhead = steps * (_STEP + (_MUON if options.optimizer == "muon" else 0))
    return options.epochs * (work * seconds_per_point + overhead) + _AROUND


def _resolved(options: argparse.Namespace) -> argparse.Namespace:
    """``options`` as for a square picture."""
    return resolve(options, (options.sidelength, options.sidelength), _left_by_mask(options))


def _left_by_mask(options: argparse.Namespace) -> int | None:
    """Half of the pixels, if there is a mask, which is not read for a forecast."""
    return None if options.mask_path is None else options.sidelength**2 // 2


def measure(options: argparse.Namespace, device: str, precision: str) -> float:
    """Seconds for each point of a step on values, without the optimizer: the best of a few.

    ``options`` are those of a task without derivatives, and ``precision`` that of the run. The
    kernels that are compiled are those that this task will use.
    """
    import jittor as jt

    from siren.network import Siren
    from siren.samples import DevicePoints, Points, Selection

    options = argparse.Namespace(**{**vars(options), "precision": precision})
    engine = choose_engine(options, device)
    network = Siren(
        out_features=options.channels,
        hidden_features=options.hidden_features,
        hidden_layers=options.hidden_layers,
        omega_0=options.omega_0,
    )
    image = np.full((SIDE * SIDE, 1, options.channels), -1, np.float32)
    batch = engine.gather(DevicePoints(Points((SIDE, SIDE), image)), Selection(0, SIDE * SIDE))
    best = np.inf
    for _ in range(4):  # the first one compiles
        start = time.perf_counter()
        loss = engine.squared_error(network, batch, 0)
        jt.grad(loss, network.flat).sync(True)
        best = min(best, time.perf_counter() - start)
    return best / SIDE**2
