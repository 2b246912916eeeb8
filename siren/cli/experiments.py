"""All four experiments in one call: what they will take, one after the other, what they reached."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator

import numpy as np

from siren import runtime
from siren.cli.errors import Outcome, Problem, overall_status, report_error
from siren.cli.machine import load_engine, start_jittor, workload
from siren.cli.options import display_path, identity_options, parse
from siren.cli.recipes import EXACT, resolve, training_points
from siren.cli.several import NOT_BEGUN, Pictures, Run
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
_MUON, _STEP = 5e-3, 1e-3  # seconds of Muon (256 units), and of the rest, in a step on a CPU
_AROUND = 3.0  # seconds before and after each training
# The time of an epoch does not depend on these, and the number of epochs is accounted for.
_UNCOUNTED = ("epochs", "seed", "lr", "muon_lr", "input_path", "ot_image_path", "precision")


class Experiments:
    """The runs of each of ``options.experiments``. Raises Problem for bad input.

    stop  asked before each experiment
    """

    several = True

    def __init__(self, options: argparse.Namespace, stop: Stop):
        if runtime.world_size() > 1:
            raise Problem("--task all runs in one process; under mpirun give one task at a time")
        self.options, self.stop = options.experiments, stop
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
        expected = _announce(self.options, [len(group.runs) for group in self.groups])
        for number, (options, group) in enumerate(zip(self.options, self.groups)):
            if self.stop():
                self.ended.append(NOT_BEGUN)
                continue
            print(f"== {options.task}, {number + 1} of {len(self.groups)}", flush=True)
            try:
                with followed_by(sum(expected[number + 1 :])):
                    yield from group.runs_to_train()
                self.ended.append(group)
            except (Exception, KeyboardInterrupt) as error:
                self.stop.requested |= isinstance(error, KeyboardInterrupt)
                self.ended.append(report_error(error, options.task, options.verbose))
        print(_table(self.options, self.outcomes), flush=True)


# ---- what is said before and after ------------------------------------------------------------


def _announce(experiments: list[argparse.Namespace], pictures: list[int]) -> list[float]:
    """Print what will be done and how long it takes, about; returns the seconds of each.

    ``pictures`` has the number of pictures of each experiment.
    """
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
    expected = [seconds * number for seconds, number in zip(expected, pictures)]
    rows = []
    for each, seconds in zip(experiments, expected):
        epochs, folder = f"{_resolved(each).epochs} epochs", display_path(each.output_dir)
        rows.append((each.task, epochs, duration(seconds), folder))
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
        look_at = f"{folder}/panel.png" if outcome.psnr is not None else folder
        ended = "" if outcome.ended == "finished" else printable(outcome.ended)
        rows.append((options.task, *score_cells(outcome), look_at, ended))
    return align(rows, right=(1, 2, 3))


# ---- how long it will take ---------------------------------------------------------------------


def by_last_run(options: argparse.Namespace) -> float | None:
    """Seconds, if the same settings were trained in the same folder to the end; else None."""
    metrics = read_metrics(options.output_dir)
    if metrics is None or metrics["ended"] != "finished" or not metrics["seconds"]:
        return None
    options = _resolved(options)
    now, before = identity_options(options), metrics["options"]
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


def by_steps(options: argparse.Namespace, seconds_of_256: float) -> float:
    """Seconds, given what ``measure`` returns."""
    options = _resolved(options)
    widening = options.hidden_features / 256
    points = training_points(options, options.sidelength**2, _left_by_mask(options))
    order = TASKS[options.task].order if options.operator in EXACT else 0
    steps = math.ceil(points / (options.batch_points or points))
    work = points * _STREAMS[order] + (_PRIOR_POINTS if options.prior != "none" else 0)
    muon = _MUON * widening**3 if options.optimizer == "muon" else 0
    seconds = work * seconds_of_256 * widening**2 + steps * (_STEP + muon)
    return options.epochs * seconds + _AROUND


def _resolved(options: argparse.Namespace) -> argparse.Namespace:
    """``options`` as for a square picture."""
    return resolve(options, (options.sidelength, options.sidelength), _left_by_mask(options))


def _left_by_mask(options: argparse.Namespace) -> int | None:
    """Half of the pixels, if there is a mask, which is not read for a forecast."""
    return None if options.mask_path is None else options.sidelength**2 // 2


def measure(options: argparse.Namespace, device: str, precision: str) -> float:
    """Seconds for each point of a step on values, without the optimizer, if it had 256 units.

    They are the best of a few, and proportional to the square of the width. ``options`` are those
    of a task without derivatives, and ``precision`` that of the run. The kernels that are compiled
    are those that this task will use.
    """
    import jittor as jt

    from siren.network import Siren
    from siren.samples import DevicePoints, Points, Selection

    options = argparse.Namespace(**{**vars(_resolved(options)), "precision": precision})
    engine = load_engine(options.engine, workload(options), device)
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
    return best / SIDE**2 / (options.hidden_features / 256) ** 2
