"""A child process that trains pictures; if it dies, only the picture that it has fails."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections.abc import Callable

from siren import signals
from siren.cli.errors import FAILED, INTERRUPTION, Outcome, notify, run_safely
from siren.cli.options import display_path
from siren.text import safe_streams

POLL = 0.1  # seconds between two looks at whether to stop
_TIME_TO_END = 20  # seconds for a child that has nothing more to do


class Worker:
    """Trains one picture after the other in a child process, and in a new one if that died.

    Leaving the context ends the child.

    run   called in the child as ``run(options, stop)``; returns the ``Outcome``
    """

    def __init__(self, run: Callable):
        self.run = run
        self.process = None
        self.pipe = None

    def __enter__(self) -> Worker:
        """Start nothing yet."""
        return self

    def __exit__(self, *_) -> None:
        """End the child."""
        if self.process is None:
            return
        self.pipe.close()
        self.process.join(_TIME_TO_END)
        if self.process.exitcode is None:
            self.process.kill()

    def train(self, options: argparse.Namespace, stop: Callable[[], bool]) -> Outcome:
        """How the run with ``options`` ended; it is interrupted when ``stop()``."""
        if self.process is None:
            self._start()
        stopped = False
        try:
            self.pipe.send(options)
            while not self.pipe.poll(POLL):  # true as well when the child has died
                if stop() and not stopped:
                    stopped = True
                    self.process.terminate()
            return self.pipe.recv()
        except (EOFError, OSError):
            return self._death(options, stopped)

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
        self.pipe, end = context.Pipe()
        self.process = context.Process(target=_work, args=(end, self.run))
        self.process.start()
        end.close()

    def _death(self, options: argparse.Namespace, stopped: bool) -> Outcome:
        """The outcome of a run whose process has died, by itself or because it was ``stopped``."""
        self.process.join()
        status, self.process = self.process.exitcode, None
        self.pipe.close()
        if stopped:
            return INTERRUPTION
        how = f"signal {-status}" if status < 0 else f"status {status}"
        sentence = f"its process ended ({how})"
        notify(f"error: {display_path(options.input_path)}: {sentence}; --resume continues it")
        return Outcome(FAILED, f"failed: {sentence}")


class _Stop(signals.Stop):
    """Takes a second signal for a repetition: one comes if mpirun kills the parent meanwhile."""

    def _handle(self, *_):
        self.requested = True


def _work(pipe, run: Callable) -> None:
    """What the child does: the runs whose options come through ``pipe``, until it is closed."""
    os.setsid()  # mpirun signals its process's whole group; the parent passes on one signal
    signals.end_with_parent()
    # Rank 0 says how every picture ended.
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
