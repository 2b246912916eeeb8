"""Several pictures, several processes: each trains whole pictures, handed out by rank 0.

The processes do not use MPI. The other ranks connect to a socket of rank 0, and rank 0 sends them
the options of one run after the other. Every rank trains in a child process (``worker``), so that
a training that dies takes nothing else with it: mpirun would end all ranks if one died.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path

from siren import images, runtime
from siren.cli.errors import FAILED, INTERRUPTED, INTERRUPTION, Failure, Outcome, Problem
from siren.cli.options import display_path
from siren.cli.worker import POLL, Worker
from siren.runtime.paths import digest, private_folder
from siren.runtime.processes import leave_mpirun, local_size
from siren.signals import Stop, end_with_parent
from siren.wording import score_cells

PATIENCE = 60  # seconds that a process waits for one which mpirun has started with it
_ALL_HERE = 10  # seconds after the last training in which a late process may still appear


class Office:
    """In rank 0: hands out the runs and collects their outcomes.

    The other ranks can connect from the beginning. They wait for ``train``, or leave with rank 0.
    """

    def __init__(self, options: argparse.Namespace):
        if local_size() < runtime.world_size():
            raise Problem(
                "--input_path names several pictures, whose processes must all run on one machine; "
                "start mpirun on each machine with some of the pictures"
            )
        self.helpers = runtime.world_size() - 1
        path = _socket_path()
        Path(path).unlink(missing_ok=True)  # of a killed call with the same number
        self.listener = Listener(path, "AF_UNIX", backlog=max(1, self.helpers))
        leave_mpirun(options.device)
        end_with_parent()
        self.lock = threading.Lock()
        self.stopping = False
        self.order: list[int] = []
        self.begun = 0
        self.connections: list[Connection] = []
        self.threads: list[threading.Thread] = []

    def __enter__(self) -> Office:
        """Start with no runs."""
        return self

    def __exit__(self, *_) -> None:
        """Close the socket; the other ranks end when they lose the connection."""
        self.listener.close()

    def train(self, runs: list, outcomes: list, run: Callable, stop: Stop) -> None:
        """Fill in the ``outcomes`` that are None: of ``run(options, stop)`` for each of ``runs``.

        The longest runs come first, so that no process is left with one at the end.
        """
        self.runs, self.outcomes = runs, outcomes
        waiting = [number for number, outcome in enumerate(outcomes) if outcome is None]
        self.order = sorted(waiting, key=lambda number: -_points(runs[number]))
        threading.Thread(target=self._accept, daemon=True).start()
        with stop, Worker(run) as worker:
            while (number := self._next(0)) is not None:
                outcome = worker.train(runs[number], lambda: self._stopped(stop))
                self._record(number, 0, outcome)
            self._wait(stop)
        stop.requested = stop.requested or self.stopping

    def _wait(self, stop: Stop) -> None:
        """Wait until the other ranks have left, or do not come any more."""
        idle = time.monotonic()
        while True:
            stopped, here = self._stopped(stop), len(self.threads)
            if any(thread.is_alive() for thread in self.threads):
                idle = time.monotonic()
            elif stopped or here == self.helpers or time.monotonic() > idle + _ALL_HERE:
                return
            time.sleep(POLL / 2)

    def _accept(self) -> None:
        """Serve every other rank in a thread of its own."""
        for _ in range(self.helpers):
            with contextlib.suppress(EOFError, OSError):
                connection = self.listener.accept()
                thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
                self.connections.append(connection)
                thread.start()
                self.threads.append(thread)

    def _serve(self, connection: Connection) -> None:
        """Give another rank one run after the other; returns when it has left."""
        number = None
        try:
            rank = connection.recv()
            while (number := self._next(rank)) is not None:
                with self.lock:
                    connection.send(self.runs[number])
                self._record(number, rank, connection.recv())
            connection.send(None)
            connection.recv()  # it sends nothing any more, and closes the connection when it ends
        except (EOFError, OSError):
            if number is not None:
                lost = Outcome(FAILED, "failed: its process ended")
                self._record(number, rank, INTERRUPTION if self.stopping else lost)

    def _next(self, rank: int) -> int | None:
        """The number of the next run, for ``rank``; None if there is none."""
        with self.lock:
            if self.stopping or self.begun == len(self.order):
                return None
            number = self.order[self.begun]
            self.begun += 1
            subject = display_path(self.runs[number].input_path)
            print(f"== {self.begun} of {len(self.order)}: {subject} (process {rank})", flush=True)
            return number

    def _record(self, number: int, rank: int, outcome: Outcome) -> None:
        """Keep the outcome of a run; one that was interrupted stops all."""
        with self.lock:
            self.outcomes[number] = outcome
            subject = display_path(self.runs[number].input_path)
            psnr, _, seconds = score_cells(outcome)
            score = f", PSNR {psnr}" if psnr else ""
            duration = f", {seconds} s" if seconds else ""
            print(f"{subject}: {outcome.ended}{score}{duration} (process {rank})", flush=True)
        if outcome.status == INTERRUPTED:
            self._stop()

    def _stopped(self, stop: Stop) -> bool:
        """Whether to stop; once a signal has come, the other ranks are told."""
        if stop():
            self._stop()
        return self.stopping

    def _stop(self) -> None:
        with self.lock:
            if self.stopping:
                return
            self.stopping = True
            for connection in self.connections:
                with contextlib.suppress(OSError):
                    connection.send(None)


def assist(options: argparse.Namespace, run: Callable) -> int:
    """In another rank: train what rank 0 hands out; returns the exit status, 0.

    Rank 0 reports how each run ended. A status other than 0 would have mpirun end all processes.
    """
    path, rank = _socket_path(), runtime.rank()
    leave_mpirun(options.device)
    end_with_parent()
    with Stop() as stop, contextlib.suppress(EOFError, OSError):
        office = _connect(path, stop)
        if office is None:
            return 0
        with office, Worker(run) as worker:
            office.send(rank)
            while (each := _receive(office, stop)) is not None:
                office.send(worker.train(each, lambda: stop() or office.poll()))
    return 0


def _connect(path: str, stop: Stop) -> Connection | None:
    """A connection to rank 0, once it is there; None if ``stop()``."""
    deadline = time.monotonic() + PATIENCE
    while not stop():
        try:
            return Client(path, "AF_UNIX")
        except (FileNotFoundError, ConnectionRefusedError) as error:
            if time.monotonic() > deadline:
                raise Failure(
                    f"process 0 of mpirun has not appeared for {PATIENCE} s; start all processes "
                    "with the same options"
                ) from error
        time.sleep(POLL / 2)
    return None


def _receive(office: Connection, stop: Stop) -> argparse.Namespace | None:
    """The options of the next run; None if there is none, or if ``stop()``."""
    while not office.poll(POLL):
        if stop():
            return None
    return office.recv()


def _socket_path() -> str:
    """The same path in all processes of this mpirun, where no other user can write.

    It goes through an open folder, because the path of a socket is limited to 107 characters.
    """
    job = os.environ.get("PMIX_NAMESPACE") or str(os.getppid())
    folder = os.open(private_folder(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    return f"/proc/self/fd/{folder}/mpirun-{digest(job)}"


def _points(options: argparse.Namespace) -> int:
    """The number of points of a run, to which its time is proportional: their epochs are equal."""
    size = images.image_size(options.input_path)
    height, width = images.fit_size(*size, options.sidelength, options.aspect)
    return height * width
