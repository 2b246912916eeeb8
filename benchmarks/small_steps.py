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


def measure_optimizers(repeats: int) -> None:
    """The default network's optimizers, and Muon's matrices alone."""
    import jittor as jt

    from siren.engine import get_engine
    from siren.network import Siren
    from siren.training.optimizer import Adam, Muon

    engine, network = get_engine("fused"), Siren()
    n, layers = network.hidden_features, network.hidden_layers
    rng = np.random.default_rng(0)
    matrices = jt.array(rng.normal(size=(layers, n, n)).astype(np.float32))
    gradient = jt.array(rng.normal(size=network.flat.shape).astype(np.float32))
    jt.sync([matrices, gradient, network.flat])
    seconds = report("orthogonalize", lambda: [engine.orthogonalize(matrices)], repeats)
    from siren.engine import reference

    iterations = getattr(reference, "ITERATIONS", 0)
    if iterations:  # half of two products, and one whole, in multiplications and additions
        work = 2 * 2 * layers * n**3 * iterations
        print(f"    {iterations} iterations, {1e-9 * work / seconds:.0f} GFLOP/s (see peak.cc)")
    adam = Adam([network.flat], 1e-4)
    if hasattr(adam, "engine"):
        adam.engine = engine
    for name, optimizer in (("Adam", adam), ("Muon", Muon(network, engine, 5e-3, 1e-3))):

        def step(optimizer=optimizer):
            optimizer.step([gradient])
            return [network.flat, *optimizer.vars()]

        report(name, step, repeats)


def measure_steps(side: int, points: int, repeats: int) -> None:
    """Draw and gather a batch of a gray picture; then all of a step as the loop does it."""
    import jittor as jt

    from siren.engine import get_engine
    from siren.network import Siren
    from siren.samples import Batches
    from siren.tasks.fit import Fit
    from siren.training.gradient import Gradient
    from siren.training.optimizer import Muon

    levels = np.random.default_rng(0).integers(0, 256, (side, side, 1))
    task = Fit(levels.astype(np.float32) / np.float32(127.5) - 1)
    engine, network = get_engine("fused"), Siren()
    gradient = Gradient(network, task, engine, Batches(points, 0))
    optimizer = Muon(network, engine, 5e-3, 1e-3)
    steps = iter(range(1 << 30))
    count = len(task.points)
    title = f"{points} of {side}x{side}: "
    report(
        title + "draw", lambda: gradient.batches.indices(count, next(steps)) is None or [], repeats
    )

    def gather():
        return list(gradient.points.gather(gradient.batches.indices(count, next(steps))))

    report(title + "draw, gather", gather, repeats)

    def compute():
        loss, slope = gradient(next(steps))
        return [loss.stop_grad(), slope]

    report(title + "draw, gather, loss, gradient", compute, max(10, repeats // 5))

    def step():
        loss, slope = gradient(next(steps))
        jt.sync([loss.stop_grad(), slope])
        optimizer.step([slope])
        return [network.flat, *optimizer.vars()]

    report(title + "whole step with Muon", step, max(10, repeats // 5))


def report(name: str, work, repeats: int) -> float:
    """Print the seconds that ``work``, which returns Vars, takes; returns the least."""
    import jittor as jt

    seconds = []
    for _ in range(5 + repeats):
        start = time.perf_counter()
        jt.sync(work())
        if jt.flags.use_cuda:
            jt.sync_all(True)
        seconds.append(time.perf_counter() - start)
    least, median = min(seconds[5:]), statistics.median(seconds[5:])
    print(f"{name:<48} least {1e3 * least:8.3f} ms   median {1e3 * median:8.3f} ms", flush=True)
    return least


if __name__ == "__main__":
    main()
