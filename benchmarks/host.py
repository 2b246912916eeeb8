#!/usr/bin/env python3
"""Times what Python and Jittor take for a tuned step on a GPU, on a machine without one.

    .venv/bin/python benchmarks/host.py [--rounds 5] [--profile]

The training loop does what it would do on a GPU, with kernels that do nothing. Where a GPU takes
less time than this for a step, it waits for the host. ``--profile`` lists the functions that take
longest, by cProfile, which doubles the time.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import io
import pstats
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from siren import runtime

STEPS = 4000


def main() -> None:
    """Print a line for each task."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="list the functions")
    options = parser.parse_args()
    runtime.start("cpu")
    leave_out_kernels()
    for name, make in (("fit", make_fit), ("inpaint", make_inpaint)):
        take_steps(make, 200)
        seconds = [take_steps(make, STEPS) for _ in range(options.rounds)]
        print(f"{name:<8} least {1e6 * min(seconds):6.1f} us a step, all:", end="")
        print("".join(f" {1e6 * each:.1f}" for each in seconds), flush=True)
        if options.profile:
            with cProfile.Profile() as profile:
                take_steps(make, STEPS)
            pstats.Stats(profile).sort_stats("tottime").print_stats(40)


def leave_out_kernels() -> None:
    """Let the fused engine ask for a GPU's kernels, and the training measure nothing."""
    import jittor as jt

    from siren.engine import fused
    from siren.training import loop

    class Flags:
        use_cuda = 1
        no_grad = property(lambda self: jt.flags.no_grad)

    class Jittor:
        flags = Flags()

        def __getattr__(self, name):
            return getattr(jt, name)

        @staticmethod
        def code(shapes, types, inputs, cuda_header, cuda_src, data):
            source = f"out0_p[0] = 0; /* {cuda_header} {cuda_src} */"
            return jt.code(shapes, types, inputs, cpu_src=source, data=data)

    criterion = jt.array(np.float32([0]))
    fused.jt = Jittor()
    loop.make_validation = lambda *_: lambda network: criterion
    loop.sampled_score = lambda *_: 0.0
    loop.Guidance.__call__ = lambda *_: None


def make_fit(image):
    """(task, batches) of the tuned recipe."""
    from siren.samples import Batches
    from siren.tasks.fit import Fit

    return Fit(image), Batches(16384, 0)


def make_inpaint(image):
    """The same, with the prior."""
    from siren.priors import StructureVariation
    from siren.tasks.inpaint import Inpaint

    return Inpaint(image, 5000, 0, StructureVariation(image.shape[:2], 1.3e-3, 0)), None


def take_steps(make, count: int) -> float:
    """Seconds for each of about ``count`` steps."""
    from siren.engine.fused import Fused
    from siren.network import Siren
    from siren.samples import steps_per_pass
    from siren.training.loop import train
    from siren.training.optimizer import Muon, linear

    levels = np.random.default_rng(0).integers(0, 256, (256, 256, 1))
    task, batches = make(levels.astype(np.float32) / np.float32(127.5) - 1)
    network, engine = Siren(), Fused("fp16")
    optimizer = Muon(network, engine, 5e-3, 1e-3)
    passes = count // steps_per_pass(len(task.points), batches)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        start = time.perf_counter()
        train(network, task, engine, passes, optimizer, linear, batches=batches)
        return (time.perf_counter() - start) / count


if __name__ == "__main__":
    main()
