"""A child process that writes the results of one picture while this one trains the next.

Threads would slow down a training on a GPU, which waits for the interpreter at every step.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.pool import ExceptionWithTraceback
from typing import TYPE_CHECKING, Any

from siren.cli.errors import notify
from siren.files import recover
from siren.runtime.messages import describe_error
from siren.runtime.processes import python_command

if TYPE_CHECKING:
    from siren.cli.finishing import Saved, Saving

_NO_GPU = {"nvcc_path": ""}
# Seconds between two looks at whether a signal has come: another thread of this process receives
# them during a training (``signals.shield_children``), and so none interrupts a longer wait.
_POLL = 0.1
_PROGRAM = "import sys; from siren.cli import finisher; finisher.work(int(sys.argv[1]))"


class Finisher:
    """Has a child write one set of results at a time; the child lives as long as the context.

    It never imports Jittor, ends with this process, and receives no signals from a terminal.

    pending  function that completes the run whose results the child writes; ``wait`` calls it
    """

    def __init__(self):
        self.process = self.pipe = None
        self.pending: Callable[[], Any] = lambda: None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.wait()
        finally:
            self.end()

    def start(self) -> None:
        """Start the child, if there is none. Raises OSError."""
        if self.process is not None:
            return
        self.pipe, end = Pipe()
        self.process = subprocess.Popen(
            python_command(["-c", _PROGRAM, str(end.fileno())]),
            stdin=subprocess.DEVNULL,
            pass_fds=[end.fileno()],
            env={**os.environ, **_NO_GPU},
            start_new_session=True,  # a terminal's Ctrl-C does not reach it
        )
        end.close()

    def begin(self, saving: Saving) -> Callable[[], Saved]:
        """Have the child call ``saving`` while this process goes on.

        Returns a function that waits for the answer: what ``saving`` returns or raises. Should the
        child die, that is called here. If a task has what cannot be sent, say, that is ``saving``.
        """
        try:
            detached = saving.detached()
            self.start()
            with contextlib.suppress(OSError):  # it has died, which ``_answer`` finds out
                self.pipe.send(detached)
        except BaseException as error:
            self.end()
            if not isinstance(error, Exception):
                raise
            notify(f"no other process can write the results ({describe_error(error)})")
            return saving
        self.pending = partial(self._answer, detached)
        return self.pending

    def _answer(self, saving: Saving) -> Saved:
        try:
            while not self.pipe.poll(_POLL):
                pass
            answer = self.pipe.recv()
        except BaseException as error:
            self.end()
            recover(saving.folder)
            if isinstance(error, Exception):  # it has died, or its answer cannot be read
                return saving()
            raise
        if isinstance(answer, Exception):
            raise answer
        return answer

    def wait(self) -> None:
        """Call ``pending``, which waits until the child has nothing to do."""
        pending, self.pending = self.pending, lambda: None
        pending()

    def end(self) -> None:
        """End the child, whatever it does: a set of files is written as a whole or not at all."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.pipe.close()
            self.process = None


def work(descriptor: int) -> None:
    """What the child does: call what comes through the pipe, and send back how that ended."""
    # Loaded while the first picture is trained; interpolation is for inpaint's results
    from scipy import interpolate, ndimage, spatial  # noqa: F401

    from siren.cli import finishing  # noqa: F401

    pipe = Connection(descriptor)
    with contextlib.suppress(EOFError, OSError):
        while True:
            saving = pipe.recv()
            try:
                answer = saving()
                answer.problems = [_with_traceback(problem) for problem in answer.problems]
            except Exception as error:
                answer = _with_traceback(error)
            del saving  # before the next one comes
            pipe.send(answer)


def _with_traceback(error: Exception) -> ExceptionWithTraceback:
    """What becomes ``error`` again in the other process, where its cause is the traceback."""
    return ExceptionWithTraceback(error, error.__traceback__)
