"""All four experiments in one call, one after the other, and a table of what they reached."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from siren import runtime
from siren.cli.errors import Outcome, Problem, overall_status, report_error
from siren.cli.options import display_path
from siren.cli.several import NOT_BEGUN, Pictures, Run
from siren.signals import Stop
from siren.text import SCORE_NAMES, align, printable, score_cells


class Experiments:
    """The runs of each of ``options.experiments``. Raises Problem for bad input.

    stop  asked before each experiment
    """

    several = True

    def __init__(self, options: argparse.Namespace, stop: Stop):
        if runtime.world_size() > 1:
            raise Problem("--task all runs in one process; under mpirun give one task at a time")
        self.options, self.folder, self.stop = options.experiments, options.output_dir, stop
        self.groups = [Pictures(each, alone=False) for each in self.options]
        files = [path for group in self.groups for path in group.files]
        for group in self.groups:
            group.check(files)
        self.ended: list[Pictures | Outcome] = []  # the groups that are over

    @property
    def outcomes(self) -> list[Outcome]:
        """How each experiment ended."""
        return [each if isinstance(each, Outcome) else each.outcome for each in self.ended]

    @property
    def outcome(self) -> Outcome:
        """How all ended together."""
        return Outcome(overall_status(self.outcomes), f"{len(self.groups)} experiments")

    def runs_to_train(self) -> Iterator[list[Run]]:
        """Yield the runs that the caller has to train, before the next step; then print a table.

        A failure does not stop the experiments after it.
        """
        names = ", ".join(each.task for each in self.options)
        print(f"Four experiments, one after the other: {names}; in {display_path(self.folder)}")
        if self.options[0].recipe == "report":
            print("./run.sh tuned takes far less time and makes better pictures.")
        for number, (options, group) in enumerate(zip(self.options, self.groups)):
            if self.stop():
                self.ended.append(NOT_BEGUN)
                continue
            print(f"== {options.task}, {number + 1} of {len(self.groups)}", flush=True)
            try:
                yield from group.runs_to_train()
                self.ended.append(group)
            except (Exception, KeyboardInterrupt) as error:
                self.stop.requested |= isinstance(error, KeyboardInterrupt)
                self.ended.append(report_error(error, options.task, options.verbose))
        print(_table(self.options, self.outcomes), flush=True)


def _table(experiments: list[argparse.Namespace], outcomes: list[Outcome]) -> str:
    """The scores of all experiments, and what to look at."""
    rows = [("task", *SCORE_NAMES, "look at", "")]
    for options, outcome in zip(experiments, outcomes):
        folder = display_path(options.output_dir)
        look_at = f"{folder}/panel.png" if outcome.psnr is not None else folder
        ended = "" if outcome.ended == "finished" else printable(outcome.ended)
        rows.append((options.task, *score_cells(outcome), look_at, ended))
    return align(rows, right=(1, 2, 3))
