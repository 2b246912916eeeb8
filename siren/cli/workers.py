"""Several pictures, several processes: rank 0 trains in as many as mpirun has started.

They are its children, and do not use MPI; the other ranks have left. A training that dies takes
nothing else with it: mpirun would end all if a rank died.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection, wait

from siren import images, signals
from siren.cli.errors import FAILED, INTERRUPTED, INTERRUPTION, Outcome, notify, run_safely
from siren.cli.options import display_path
from siren.runtime.processes import leave_mpirun
from siren.signals import Stop
from siren.text import safe_streams, score_cells

_POLL = 0.1  # seconds between two looks at whether to stop
_TIME_TO_END = 20  # seconds for children that have nothing more to do


def train_on_workers(runs: list, outcomes: list, run: Callable, stop: Stop) -> None:
    """Fill in the ``outcomes`` that are None: of ``run(options, stop)`` for each of ``runs``.

    The longest runs come first, so that no process is left with one at the end. A run that is
    interrupted stops all.
    """
    waiting = [number for number, outcome in enumerate(outcomes) if outcome is None]
    queue = deque(sorted(waiting, key=lambda number: -_points(runs[number])))
    workers = [Worker(*each, run) for each in enumerate(leave_mpirun(runs[0].device))]
    busy: dict[Worker, int] = {}  # the number of the run that each one has

    def give(worker: Worker) -> None:
        """Have a worker train the next run, or end if there is none."""
        if stop() or not queue:
            worker.close()
            return
        number = busy[worker] = queue.popleft()
        subject = display_path(runs[number].input_path)
        place = f"{len(waiting) - len(queue)} of {len(waiting)}"
        print(f"== {place}: {subject} (process {worker.rank})", flush=True)
        worker.begin(runs[number])

    signals.end_with_parent()
    with stop, _ended(workers):
        for worker in workers:
            give(worker)
        while busy:
            for worker in wait(busy, _POLL):
                number = busy.pop(worker)
                outcomes[number] = outcome = worker.outcome()
                _report(runs[number], outcome, worker)
                stop.requested = stop.requested or outcome.status == INTERRUPTED
                give(worker)
            if stop():
                for worker in busy:
                    worker.interrupt()


class Worker:
    """Trains one picture after the other in a child process, and in a new one if that died.

    rank       its number among the workers
    variables  of its environment, beside those of this process
    run        called in the child as ``run(options, stop)``; returns the ``Outcome``
    """

    def __init__(self, rank: int, variables: dict[str, str], run: Callable):
        self.rank = rank
        self.variables = variables
        self.run = run
        self.process = None

    def begin(self, options: argparse.Namespace) -> None:
        """Start the run with ``options``."""
        if self.process is None:
            context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
            self.pipe, end = context.Pipe()
            self.process = context.Process(target=_work, args=(end, self.variables, self.run))
            self.process.start()
            end.close()
        self.options, self.interrupted = options, False
        with contextlib.suppress(OSError):  # the child has died, which ``outcome`` finds
            self.pipe.send(options)

    def fileno(self) -> int:
        """What ``multiprocessing.connection.wait`` looks at: the run has ended, or the child."""
        return self.pipe.fileno()

    def interrupt(self) -> None:
        """Have the child save the run's state and end it."""
        if not self.interrupted:
            self.interrupted = True
            self.process.terminate()

    def outcome(self) -> Outcome:
        """How the run ended; waits for it."""
        with contextlib.suppress(EOFError, OSError):
            return self.pipe.recv()
        self.process.join()
        status, self.process = self.process.exitcode, None
        self.pipe.close()
        if self.interrupted:
            return INTERRUPTION
        how = f"signal {-status}" if status < 0 else f"status {status}"
        sentence = f"its process ended ({how})"
        notify(f"error: {display_path(self.options.input_path)}: {sentence}; --resume continues it")
        return Outcome(FAILED, f"failed: {sentence}")

    def close(self) -> None:
        """Have the child end, soon."""
        if self.process is not None:
            self.pipe.close()


@contextlib.contextmanager
def _ended(workers: list[Worker]):
    """After its context, the children of ``workers`` have ended."""
    try:
        yield
    finally:
        for worker in workers:
            worker.close()
        deadline = time.monotonic() + _TIME_TO_END
        for process in [worker.process for worker in workers if worker.process is not None]:
            process.join(max(0, deadline - time.monotonic()))
            if process.exitcode is None:
                process.kill()


class _Stop(Stop):
    """Takes a second signal for a repetition: one comes if mpirun kills the parent meanwhile."""

    def _handle(self, *_):
        self.requested = True


def _work(pipe: Connection, variables: dict[str, str], run: Callable) -> None:
    """What the child does: the runs whose options come through ``pipe``, until it is closed."""
    os.setsid()  # mpirun signals its process's whole group; the parent passes on one signal
    signals.end_with_parent()
    os.environ.update(variables)
    # The parent says how every picture ended.
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    with safe_streams(), signals.raising_interrupt():
        try:
            while True:
                options = pipe.recv()
                subject = display_path(options.input_path)
                pipe.send(run_safely(run, options, _Stop(), subject))
        except (EOFError, OSError, KeyboardInterrupt):
            signals.ignore()  # nothing but the interpreter's shutdown is left
    signals.ignore()


def _report(options: argparse.Namespace, outcome: Outcome, worker: Worker) -> None:
    """Say how a run has ended."""
    psnr, _, seconds = score_cells(outcome)
    score = f", PSNR {psnr}" if psnr else ""
    duration = f", {seconds} s" if seconds else ""
    subject = display_path(options.input_path)
    print(f"{subject}: {outcome.ended}{score}{duration} (process {worker.rank})", flush=True)


def _points(options: argparse.Namespace) -> int:
    """The number of points of a run, to which its time is proportional: their epochs are equal."""
    size = images.image_size(options.input_path)
    height, width = images.fit_size(*size, options.sidelength, options.aspect)
    return height * width
