"""How long a training will take: by the last run of its kind, or by a few steps on this machine."""

from __future__ import annotations

import argparse
import time

import numpy as np

from siren.cli.identity import identity_options
from siren.cli.machine import load_engine
from siren.cli.recipes import default_points
from siren.engine.use import Use
from siren.output.report import read_metrics

POINTS = 16384  # of a step that is measured
# Products of matrices in a step, relative to those of a loss of values: h, z and their gradients
# for each stream, of which a gradient has 3, a Laplacian 4.
_STREAMS = {0: 1.0, 1: 3.2, 2: 4.3}
_PRIOR_POINTS = 17000  # that many points of a loss of values take as long as a prior
_MUON, _STEP = 5e-3, 1e-3  # seconds of Muon, and of anything else, in every step on a CPU
_AROUND = 3.0  # seconds before and after each training
_UNCOUNTED = ("epochs", "seed", "input_path", "ot_image_path", "precision")  # epochs are scaled by


def by_last_run(options: argparse.Namespace) -> float | None:
    """Seconds, if the same settings were trained in the same folder to the end; else None."""
    metrics = read_metrics(options.output_dir)
    if metrics is None or metrics["ended"] != "finished" or not metrics["seconds"]:
        return None
    now, before = identity_options(options), metrics["options"]
    names = now.keys() - set(_UNCOUNTED)
    filled_in = ("omega_first", "batch_points", "points")  # None now: by the size of the picture
    if any(now[n] != before.get(n) for n in names if now[n] is not None or n not in filled_in):
        return None
    if options.device not in ("auto", metrics["runtime"]["device"]):
        return None
    return metrics["seconds"] * options.epochs / max(metrics["epochs"], 1) + _AROUND


def by_steps(options: argparse.Namespace, seconds_per_point: float) -> float:
    """Seconds, given those of each point in a step of ``measure``."""
    pixels = options.sidelength**2
    points = pixels
    if options.task == "inpaint":
        points = options.points or default_points(pixels)
    streams = _STREAMS[0]
    if options.operator != "fd":
        streams = _STREAMS[{"edit": 1, "poisson": 2}.get(options.task, 0)]
    batches = 4 if options.recipe == "tuned" and options.task != "inpaint" else 1
    work = points * streams + (_PRIOR_POINTS if options.prior != "none" else 0)
    overhead = batches * (_STEP + (_MUON if options.optimizer == "muon" else 0))
    return options.epochs * (work * seconds_per_point + overhead) + _AROUND


def measure(options: argparse.Namespace, device: str) -> float:
    """Seconds for each point of a step of fit, without the optimizer: the best of a few."""
    import jittor as jt

    from siren.network import Siren

    use = Use(
        precision=options.precision,
        width=options.hidden_features,
        layers=options.hidden_layers,
        channels=options.channels,
        omega_0=options.omega_0,
    )
    engine = load_engine(options.engine, use, device)
    network = Siren(
        out_features=options.channels,
        hidden_features=options.hidden_features,
        hidden_layers=options.hidden_layers,
        omega_0=options.omega_0,
    )
    random = np.random.default_rng(0)
    coordinates = jt.array(random.uniform(-1, 1, (POINTS, 2)).astype(np.float32)).stop_grad()
    target = jt.zeros((POINTS, 1, options.channels)).stop_grad()
    best = np.inf
    for _ in range(4):  # the first one compiles
        start = time.perf_counter()
        loss = engine.squared_error(network, coordinates, target, 0)
        jt.grad(loss, network.flat).sync(True)
        best = min(best, time.perf_counter() - start)
    return best / POINTS
