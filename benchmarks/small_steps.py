#!/usr/bin/env python3
"""Times what surrounds the network's pass in a step on a small batch, and the whole step.

    .venv/bin/python benchmarks/small_steps.py [--points 16384] [--sides 256,4096] [--repeats 100]

On a machine that others use, compare the quickest runs, and measure two versions in turns.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from siren import runtime


def main() -> None:
    """Print one line for each part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=16384, help="in a batch")
    parser.add_argument("--sides", default="256,4096", help="of the pictures")
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    runtime.start(options.device)
    measure_optimizers(options.repeats)
    for side in options.sides.split(","):
        measure_steps(int(side), options.points, options.repeats)
    measure_inpainting(options.repeats)


def load_engine():
    """The engine as main.py takes it."""
    import jittor as jt

    from siren.cli.machine import automatic_precision
    from siren.engine import get_engine

    return get_engine("fused", automatic_precision("cuda" if jt.flags.use_cuda else "cpu"))


def measure_optimizers(repeats: int) -> None:
    """The default network's optimizers."""
    import jittor as jt

    from siren.network import Siren
    from siren.training.optimizer import Adam, Muon

    engine, network = load_engine(), Siren()
    rng = np.random.default_rng(0)
    gradient = jt.array(rng.normal(size=network.flat.shape).astype(np.float32))
    jt.sync([gradient, network.flat])
    adam = Adam([network.flat], 1e-4, engine=engine)
    for name, optimizer in (("Adam", adam), ("Muon", Muon(network, engine, 5e-3, 1e-3))):

        def step(optimizer=optimizer):
            optimizer.step([gradient])
            jt.sync([network.flat, *optimizer.vars()])

        report(name, step, repeats)


def measure_steps(side: int, points: int, repeats: int) -> None:
    """Gather a batch of a gray picture; then all of a step as the loop does it."""
    import jittor as jt

    from siren.network import Siren
    from siren.samples import Batches
    from siren.tasks.fit import Fit
    from siren.training.gradient import Gradient

    levels = np.random.default_rng(0).integers(0, 256, (side, side, 1))
    task = Fit(levels.astype(np.float32) / np.float32(127.5) - 1)
    engine, network = load_engine(), Siren()
    gradient = Gradient(network, task, engine, Batches(points, 0))
    steps = iter(range(1 << 30))
    title = f"{points} of {side}x{side}: "

    def gather():
        batch = gradient.batches.select(len(task.points), next(steps))
        points = engine.gather(gradient.points, batch)
        jt.sync([points.coordinates, points.target])

    report(title + "draw, gather", gather, repeats)
    report_steps(title, gradient, network, engine, repeats)


def measure_inpainting(repeats: int) -> None:
    """The same for 5000 points of a gray picture at 256x256, with the prior of the tuned recipe."""
    from siren.network import Siren
    from siren.priors import StructureVariation
    from siren.tasks.inpaint import Inpaint
    from siren.training.gradient import Gradient

    rows, columns = np.indices((256, 256)) / 128 - 1
    image = np.float32(np.sin(9 * rows * columns))[..., None]
    prior = StructureVariation((256, 256), 1.3e-3, 0)
    prior.update(image)
    task = Inpaint(image, 5000, 0, prior)
    engine, network = load_engine(), Siren(omega_0=10)
    report_steps("inpaint: ", Gradient(network, task, engine), network, engine, repeats)


def report_steps(title: str, gradient, network, engine, repeats: int) -> None:
    """Loss and gradient alone, and with the update."""
    import jittor as jt

    from siren.training.optimizer import Muon

    optimizer = Muon(network, engine, 5e-3, 1e-3)
    steps = iter(range(1 << 30))

    def compute():
        loss, slope = gradient(next(steps))
        jt.sync([loss.stop_grad(), slope])

    def step():
        optimizer.step([gradient(next(steps))[1]])
        jt.sync([network.flat, *optimizer.vars()])

    repeats = max(10, repeats // 5)
    report(title + "loss, gradient", compute, repeats)
    report(title + "whole step with Muon", step, repeats)


def report(name: str, work, repeats: int) -> None:
    """Print the milliseconds that ``work`` takes.

    On a GPU many are started before the clock is read again, as in a training.
    """
    import jittor as jt

    at_once = 20 if jt.flags.use_cuda else 1
    seconds = []
    for _ in range(5 + repeats):
        start = time.perf_counter()
        for _ in range(at_once):
            work()
        if jt.flags.use_cuda:
            jt.sync_all(True)
        seconds.append((time.perf_counter() - start) / at_once)
    least, median = min(seconds[5:]), statistics.median(seconds[5:])
    print(f"{name:<48} least {1e3 * least:8.3f} ms   median {1e3 * median:8.3f} ms", flush=True)


if __name__ == "__main__":
    main()
