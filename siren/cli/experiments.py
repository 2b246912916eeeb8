"""All four experiments in one call: what they will take, one after the other, what they reached."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from siren import runtime
from siren.cli.errors import Outcome, Problem, overall_status, run_safely
from siren.cli.estimate import by_last_run, by_steps, measure
from siren.cli.machine import start_jittor
from siren.cli.options import display_path, parse
from siren.cli.several import NOT_BEGUN, check_run, input_files, make_runs, run_several
from siren.cli.showing import update_page
from siren.signals import Stop
from siren.text import printable
from siren.training.remaining import duration, followed_by
from siren.wording import SCORE_NAMES, align, score_cells


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
        fit = next(each for each in experiments if each.task == "fit")
        speed = measure(fit, *start_jittor(fit))
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
