"""Several pictures, several processes: rank 0 trains in as many as mpirun has started.

They are its children, and do not use MPI; the other ranks have left. A training that dies takes
nothing else with it: mpirun would end all if a rank died.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection, wait

from siren import signals
from siren.cli import session
from siren.cli.errors import FAILED, INTERRUPTED, INTERRUPTION, Outcome, notify
from siren.cli.several import Run
from siren.runtime.processes import leave_mpirun
from siren.signals import Stop
from siren.text import safe_streams, score_cells

_POLL = 0.1  # seconds between two looks at whether to stop
_TIME_TO_END = 20  # seconds for children that have nothing more to do


def train_on_workers(runs: list[Run], train_picture: Callable, stop: Stop) -> None:
    """Have each of ``runs`` trained by ``session.run``, which gives it its outcome.

    The longest runs come first, so that no process is left with one at the end. A run that is
    interrupted stops all; those that have not begun then have no outcome.
    """
    if not runs:
        return
    queue = deque(sorted(runs, key=lambda run: -run.pixels))
    workers = [Worker(*each) for each in enumerate(leave_mpirun(runs[0].options.device))]
    signals.end_with_parent()
    try:
        with stop:
            _train_all(queue, workers, train_picture, stop)
    finally:
        children = [worker for worker in workers if worker.process is not None]
        for child in children:
            child.pipe.close()  # which ends it
        deadline = time.monotonic() + _TIME_TO_END
        for child in children:
            child.process.join(max(0, deadline - time.monotonic()))
            if child.process.exitcode is None:
                child.process.kill()


def _train_all(queue: deque[Run], workers: list[Worker], train_picture: Callable, stop: Stop):
    count, idle, busy = len(queue), list(workers), []
    while True:
        while idle and queue and not stop():
            worker, run = idle.pop(0), queue.popleft()
            place = f"{count - len(queue)} of {count}"
            print(f"== {place}: {run.subject} (process {worker.rank})", flush=True)
            worker.begin(train_picture, run)
            busy.append(worker)
        if not busy:
            return
        for worker in wait(busy, _POLL):
            worker.finish()
            stop.requested |= worker.run.outcome.status == INTERRUPTED
            busy.remove(worker)
            idle.append(worker)
        if stop():
            for worker in busy:
                worker.interrupt()


class Worker:
    """Trains one picture after the other in a child process, and in a new one if that died.

    rank       its number among the workers
    variables  of its environment, beside those of this process
    """

    def __init__(self, rank: int, variables: dict[str, str]):
        self.rank = rank
        self.variables = variables
        self.process = None

    def begin(self, train_picture: Callable, run: Run) -> None:
        """Start a training in the child."""
        if self.process is None:
            context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
            self.pipe, end = context.Pipe()
            self.process = context.Process(target=_work, args=(end, self.variables))
            self.process.start()
            end.close()
        self.run, self.interrupted = run, False
        with contextlib.suppress(OSError):  # the child has died, which ``finish`` finds
            self.pipe.send(partial(session.run, train_picture, run))

    def fileno(self) -> int:
        """What ``multiprocessing.connection.wait`` looks at: the run has ended, or the child."""
        return self.pipe.fileno()

    def interrupt(self) -> None:
        """Have the child save the run's state and end it."""
        if not self.interrupted:
            self.interrupted = True
            self.process.terminate()

    def finish(self) -> None:
        """Wait for the end of the run, give it its outcome, and say how it has ended."""
        try:
            self.run.outcome = self.pipe.recv()
        except (EOFError, OSError):
            self.run.outcome = self._outcome_of_the_dead()
        psnr, _, seconds = score_cells(self.run.outcome)
        score = f", PSNR {psnr}" if psnr else ""
        duration = f", {seconds} s" if seconds else ""
        how = f"{self.run.outcome.ended}{score}{duration}"
        print(f"{self.run.subject}: {how} (process {self.rank})", flush=True)

    def _outcome_of_the_dead(self) -> Outcome:
        self.process.join()
        status, self.process = self.process.exitcode, None
        self.pipe.close()
        if self.interrupted:
            return INTERRUPTION
        how = f"signal {-status}" if status < 0 else f"status {status}"
        sentence = f"its process ended ({how})"
        notify(f"error: {self.run.subject}: {sentence}; --resume continues it")
        return Outcome(FAILED, f"failed: {sentence}")


class _Stop(Stop):
    """Takes a second signal for a repetition: one comes if mpirun kills the parent meanwhile."""

    def _handle(self, *_):
        self.requested = True


def _work(pipe: Connection, variables: dict[str, str]) -> None:
    """What the child does: the trainings that come through ``pipe``, until it is closed."""
    os.setsid()  # mpirun signals its process's whole group; the parent passes on one signal
    signals.end_with_parent()
    os.environ.update(variables)
    # The parent says how every picture ended.
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    with safe_streams(), signals.raising_interrupt():
        try:
            while True:
                pipe.send(pipe.recv()(_Stop()))
        except (EOFError, OSError, KeyboardInterrupt):
            signals.ignore()  # nothing but the interpreter's shutdown is left
    signals.ignore()
