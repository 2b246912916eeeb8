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
    busy: dict[Worker, Run] = {}

    def give(worker: Worker) -> None:
        """Have a worker train the next run, or end if there is none."""
        if stop() or not queue:
            worker.close()
            return
        run = busy[worker] = queue.popleft()
        place = f"{len(runs) - len(queue)} of {len(runs)}"
        print(f"== {place}: {run.subject} (process {worker.rank})", flush=True)
        worker.begin(partial(session.run, train_picture, run.options, run.subject), run.subject)

    signals.end_with_parent()
    with stop, _ended(workers):
        for worker in workers:
            give(worker)
        while busy:
            for worker in wait(busy, _POLL):
                run = busy.pop(worker)
                run.ending = worker.outcome()
                _report(run, worker)
                stop.requested |= run.outcome.status == INTERRUPTED
                give(worker)
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

    def begin(self, training: Callable[[Stop], Outcome], subject: str) -> None:
        """Start a training, which is called in the child; ``subject`` names it."""
        if self.process is None:
            context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
            self.pipe, end = context.Pipe()
            self.process = context.Process(target=_work, args=(end, self.variables))
            self.process.start()
            end.close()
        self.subject, self.interrupted = subject, False
        with contextlib.suppress(OSError):  # the child has died, which ``outcome`` finds
            self.pipe.send(training)

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
        notify(f"error: {self.subject}: {sentence}; --resume continues it")
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


def _report(run: Run, worker: Worker) -> None:
    """Say how a run has ended."""
    psnr, _, seconds = score_cells(run.outcome)
    score = f", PSNR {psnr}" if psnr else ""
    duration = f", {seconds} s" if seconds else ""
    print(
        f"{run.subject}: {run.outcome.ended}{score}{duration} (process {worker.rank})", flush=True
    )
