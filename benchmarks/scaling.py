#!/usr/bin/env python3
"""Times training steps over several processes, and over images of any size.

Run it with the program's own Python; it starts mpirun itself. By default one process with all
threads, and 1, 2, ... processes with an equal part of them each, take turns at the same image
(strong scaling) and at as many points a process (weak scaling). ``--bytes`` counts what two
processes on the loopback send each other, and ``--sizes`` times strips of large images in turns
with whole steps of a small one, in one process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from speed import peak_memory, table

HERE = Path(__file__).resolve().parent
SMALL = 512  # pixels a side that --sizes compares with


def noise(height: int, width: int) -> np.ndarray:
    """A picture (height, width, 1) of 8-bit noise, float32 in [-1, 1]."""
    numbers = np.random.default_rng(0).integers(0, 256, (height, width, 1)).astype(np.float32)
    return numbers / np.float32(127.5) - 1


class Training:
    """This program's steps on a picture of noise, as ``siren/training/loop.py`` does them."""

    def __init__(self, height: int, width: int, hidden_features: int, device: str):
        from siren.cli.machine import automatic_precision
        from siren.engine import get_engine
        from siren.network import Siren
        from siren.tasks.fit import Fit
        from siren.training.gradient import Gradient
        from siren.training.optimizer import Adam

        self.network = Siren(hidden_features=hidden_features)
        engine = get_engine("fused", automatic_precision(device))
        self.optimizer = Adam([self.network.flat], 1e-4)
        self.gradient_of = Gradient(self.network, Fit(noise(height, width)), engine)

    def step(self, number: int) -> None:
        """One training step, to its end."""
        import jittor as jt

        loss, gradient = self.gradient_of(number)
        jt.sync([loss, gradient])
        self.optimizer.step([gradient])
        jt.sync([self.network.flat, *self.optimizer.vars()], True)


def timed(work, seconds: float, at_least: int = 3) -> list[float]:
    """Seconds of each call of ``work``, for at least so many seconds and calls."""
    times: list[float] = []
    while len(times) < at_least or sum(times) < seconds:
        start = time.perf_counter()
        work(len(times))
        times.append(time.perf_counter() - start)
    return times


def loopback_bytes() -> int:
    """Bytes that this machine has sent to itself."""
    for line in Path("/proc/net/dev").read_text(encoding="utf8").splitlines():
        if line.strip().startswith("lo:"):
            return int(line.split(":")[1].split()[8])
    return 0


def work(options) -> None:
    """What each process started by mpirun does; the first one prints JSON."""
    sys.path.insert(0, str(HERE.parent))
    from siren import runtime

    runtime.start(options.device)
    import jittor as jt

    from siren import distributed

    training = Training(options.height, options.side, options.width, options.device)
    parameters = training.network.flat.shape[0]
    for number in range(2):
        training.step(number)
    steps = range(options.steps)
    jt.sync_all(True)
    sent, start = loopback_bytes(), time.perf_counter()
    for number in steps:
        training.step(number)
    seconds = (time.perf_counter() - start) / len(steps)
    sent = (loopback_bytes() - sent) / len(steps)
    vector = jt.array(np.ones(parameters + 1, np.float32))

    def add_up(_):
        distributed.all_reduce(vector).sync(True)

    add_up(0)
    communication = statistics.median([timed(add_up, 0, 1)[0] for _ in range(20)])
    if distributed.rank() == 0:
        answer = {
            "seconds": seconds,
            "communication": communication if distributed.world_size() > 1 else 0.0,
            "parameters": parameters,
            "sent": sent,
            "memory": peak_memory(),
            "threads": runtime.describe()["threads"],
        }
        Path(options.answer).write_text(json.dumps(answer), encoding="utf8")


def launch(options, processes: int, threads: int, height: int, tcp: bool = False) -> dict:
    """Measure in that many processes; returns what ``work`` found."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer.json")
        command = [sys.executable, str(HERE / "scaling.py"), "--worker", str(answer)]
        command += ["--height", str(height), "--side", str(options.side)]
        command += ["--width", str(options.width), "--steps", str(options.steps)]
        command += ["--device", options.device]
        if processes > 1:
            network = ["--mca", "btl", "tcp,self"] if tcp else []
            bind = ["--bind-to", "none", "--oversubscribe"]
            command = ["mpirun", *bind, *network, "-np", str(processes), *command]
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        }
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{processes} processes failed:\n{done.stderr[-2000:]}")
        return json.loads(answer.read_text(encoding="utf8"))


def median(found: list[dict], name: str) -> float:
    """Of all rounds."""
    return statistics.median(answer[name] for answer in found)


def processes(options) -> None:
    """Strong and weak scaling."""
    threads = len(os.sched_getaffinity(0))
    cases = [(1, threads, options.side)] if options.device == "cpu" else []
    for count in options.processes:
        part = max(1, threads // max(options.processes)) if options.device == "cpu" else threads
        cases.append((count, part, options.side))
        if count > 1:
            cases.append((count, part, options.side * count))
    found: dict = {case: [] for case in cases}
    for _ in range(options.rounds):  # in turns: a noisy machine is noisy for all of them
        for case in cases:
            found[case].append(launch(options, *case))
    rows = []
    for (count, part, height), answers in found.items():
        points = height * options.side
        seconds, adding = median(answers, "seconds"), median(answers, "communication")
        rows.append(
            [
                str(count),
                str(part),
                f"{height}x{options.side}",
                f"{1e3 * seconds:.3g}",
                f"{1e9 * seconds / points:.3g}",
                f"{1e3 * adding:.3f}",
                f"{median(answers, 'memory') / 1e6:.0f}",
            ]
        )
    times = ["ms a step", "ns a point", "sum in ms"]
    print(table(["processes", "threads each", "points", *times, "peak MB"], rows))


def traffic(options) -> None:
    """Bytes over the loopback in a step of two processes, against the size of what is added up."""
    found = launch(options, 2, 1, options.side, tcp=True)
    expected = 2 * 4 * (found["parameters"] + 1)
    print(
        f"{found['parameters']} parameters: each of two processes must send the other "
        f"{expected / 2e6:.3f} MB a step, together {expected / 1e6:.3f} MB; "
        f"the loopback carried {found['sent'] / 1e6:.3f} MB a step"
    )


def sizes(options) -> None:
    """Time per point of strips of a large picture, in turns with steps of a small one."""
    sys.path.insert(0, str(HERE.parent))
    from siren import runtime

    runtime.start(options.device)
    import jittor as jt

    small = Training(SMALL, SMALL, options.width, options.device)
    large = Training(options.side, options.side, options.width, options.device)
    total = options.side**2
    # As many points as the small picture has, fewer than training takes at once.
    strips = [np.arange(first, first + SMALL**2) for first in range(0, total, SMALL**2)]
    small.step(0)
    jt.sync(large.gradient_of._pointwise(strips[0], total), True)
    pairs = []
    for strip in strips[: options.steps]:
        before = statistics.median(timed(small.step, 0.0, 1))
        start = time.perf_counter()
        jt.sync(large.gradient_of._pointwise(strip, total), True)
        seconds = time.perf_counter() - start
        after = statistics.median(timed(small.step, 0.0, 1))
        pairs.append((seconds / len(strip), (before + after) / 2 / SMALL**2))
    per_point = [1e9 * statistics.median(column) for column in zip(*pairs)]
    ratio = statistics.median(a / b for a, b in pairs)
    print(
        f"{options.side}x{options.side} by strips: {per_point[0]:.0f} ns a point; "
        f"{SMALL}x{SMALL} at once, Adam included: {per_point[1]:.0f}; "
        f"ratio {ratio:.3f} (median of {len(pairs)} pairs); peak {peak_memory() / 1e6:.0f} MB"
    )


def main() -> int:
    """Measure what the options ask for."""
    parser = argparse.ArgumentParser(description="Time training steps over several processes.")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], metavar="N")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--side", type=int, default=1024, metavar="PIXELS")
    parser.add_argument("--width", type=int, default=256, metavar="N", help="units of a layer")
    parser.add_argument("--steps", type=int, default=5, metavar="N", help="steps (strips) a turn")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--bytes", action="store_true", help="instead: what two processes send")
    parser.add_argument("--sizes", action="store_true", help="instead: strips of a large picture")
    parser.add_argument("--height", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--worker", dest="answer", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.answer:
        work(options)
    elif options.bytes:
        traffic(options)
    elif options.sizes:
        sizes(options)
    else:
        processes(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
