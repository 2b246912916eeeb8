"""All four experiments in one call: what they will take, one after the other, what they reached."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from siren import runtime
from siren.cli import inputs
from siren.cli.errors import INTERRUPTED, Interrupted, Outcome, Problem, report_error
from siren.cli.estimate import by_last_run, by_steps, measure
from siren.cli.identity import display_path
from siren.cli.machine import start_jittor
from siren.cli.options import parse
from siren.cli.several import check_run, make_runs, run_several
from siren.cli.showing import update_page
from siren.output.report import read_metrics
from siren.output.summary import align
from siren.signals import Stop
from siren.text import printable
from siren.training.remaining import duration, followed_by


def run_all(options: argparse.Namespace, run: Callable) -> int:
    """Call ``run(options, stop)`` for each of ``options.experiments``; returns the exit status.

    Bad input is found before the first training. A failure does not stop the experiments after it.
    """
    if runtime.world_size() > 1:
        raise Problem("--task all runs in one process; under mpirun give one task at a time")
    experiments = options.experiments
    groups = [make_runs(each) for each in experiments]
    finished = [_check(group) for group in groups]
    expected = _announce(experiments, groups)
    stop = Stop()
    outcomes = []
    for number, (each, group) in enumerate(zip(experiments, groups)):
        if stop():
            outcomes.append(Outcome(INTERRUPTED, "not begun"))
            continue
        print(f"== {each.task}, {number + 1} of {len(groups)}", flush=True)
        later = sum(expected[number + 1 :])
        outcomes.append(finished[number] or _run_group(run, each, group, stop, later))
    print(_table(experiments, outcomes), flush=True)
    update_page(options.output_dir, several=True)
    statuses = [outcome.status for outcome in outcomes if outcome.status]
    return INTERRUPTED if INTERRUPTED in statuses else (statuses or [0])[0]


def _check(group: list[argparse.Namespace]) -> Outcome | None:
    """Raise Problem for bad input; with ``--resume``, return the outcome of a finished run."""
    files = [path for each in group for path in inputs.paths(each).values()]
    if len(group) > 1:  # run_several checks them
        return None
    return check_run(group[0], files)


def _run_group(run: Callable, options, group: list, stop: Stop, later: float) -> Outcome:
    """The outcome of one experiment, on one picture or on several; errors are reported."""
    try:
        with followed_by(later):
            if len(group) > 1:
                status = run_several(options, group, run)
                stop.requested |= status == INTERRUPTED
                return Outcome(status, f"{len(group)} pictures")
            return run(group[0], stop)
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, (Interrupted, KeyboardInterrupt)):
            stop.requested = True
        return report_error(error, f"{options.task}: ", options.verbose)


# ---- what is said before and after ------------------------------------------------------------


def _announce(experiments: list[argparse.Namespace], groups: list[list]) -> list[float]:
    """Print what will be done and how long it takes, about; returns the seconds of each."""
    expected = [by_last_run(each) for each in experiments]
    tuned = parse(["--task", "all", "--recipe", "tuned"]).experiments
    speed = None
    if None in expected:
        print("Measuring a few steps ...", flush=True)
        speed = measure(experiments[0], start_jittor(experiments[0]))
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
        seconds = sum(by_steps(each, speed) for each in tuned)
        print(f"./run.sh tuned takes about {duration(seconds)} and makes better pictures.")
    return expected


def _table(experiments: list[argparse.Namespace], outcomes: list[Outcome]) -> str:
    """The scores of all experiments, and what to look at."""
    rows = [("task", "PSNR", "SSIM", "seconds", "look at", "")]
    for options, outcome in zip(experiments, outcomes):
        metrics = read_metrics(options.output_dir) or {}
        seconds = metrics.get("seconds")
        folder = display_path(options.output_dir)
        rows.append(
            (
                options.task,
                "" if outcome.psnr is None else f"{outcome.psnr:.2f} dB",
                "" if outcome.ssim is None else f"{outcome.ssim:.3f}",
                "" if outcome.psnr is None or seconds is None else f"{seconds:.1f}",
                f"{folder}/panel.png" if outcome.psnr is not None else folder,
                "" if outcome.ended == "finished" else printable(outcome.ended),
            )
        )
    return align(rows, right=(1, 2, 3))
