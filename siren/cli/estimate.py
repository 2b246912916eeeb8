"""How long a training will take: by the last run of its kind, or by a few steps on this machine."""

from __future__ import annotations

import argparse
import math
import time

import numpy as np

from siren.cli.machine import choose_engine
from siren.cli.options import identity_options
from siren.cli.recipes import EXACT, resolve, training_points
from siren.output.report import read_metrics
from siren.tasks import TASKS

SIDE = 128  # of the picture whose points are a step that is measured
# Products of matrices in a step, relative to those of a loss of values: h, z and their gradients
# for each stream, of which a gradient has 3, a Laplacian 4.
_STREAMS = {0: 1.0, 1: 3.2, 2: 4.3}
_PRIOR_POINTS = 17000  # that many points of a loss of values take as long as a prior
_MUON, _STEP = 5e-3, 1e-3  # seconds of Muon, and of anything else, in every step on a CPU
_AROUND = 3.0  # seconds before and after each training
# The time of an epoch does not depend on these, and the number of epochs is accounted for.
_UNCOUNTED = ("epochs", "seed", "lr", "muon_lr", "input_path", "ot_image_path", "precision")


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
    except (LookupError, TypeError, ValueError):  # the file is damaged
        return None
    if epochs < 1 or options.device not in ("auto", device):
        return None
    return metrics["seconds"] * options.epochs / epochs + _AROUND


def by_steps(options: argparse.Namespace, seconds_per_point: float) -> float:
    """Seconds, given those of each point in a step of ``measure``."""
    options = _resolved(options)
    points = training_points(options, options.sidelength**2)
    order = TASKS[options.task].order if options.operator in EXACT else 0
    steps = math.ceil(points / (options.batch_points or points))
    work = points * _STREAMS[order] + (_PRIOR_POINTS if options.prior != "none" else 0)
    overhead = steps * (_STEP + (_MUON if options.optimizer == "muon" else 0))
    return options.epochs * (work * seconds_per_point + overhead) + _AROUND


def _resolved(options: argparse.Namespace) -> argparse.Namespace:
    """``options`` as for a square picture."""
    return resolve(options, (options.sidelength, options.sidelength))


def measure(options: argparse.Namespace, device: str, precision: str) -> float:
    """Seconds for each point of a step of fit, without the optimizer: the best of a few.

    ``options`` are those of fit, and ``precision`` that of the run. The kernels that are
    compiled are those that fit will use.
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
