"""A child process that writes the results of one picture while this one trains the next.

Threads would slow down a training on a GPU, which waits for the interpreter at every step.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import traceback
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from siren.files import recover
from siren.runtime.processes import python_command

_NO_GPU = {"nvcc_path": ""}
# Seconds between two looks at whether a signal has come: another thread of this process receives
# them during a training (``signals.shield_children``), and so none interrupts a longer wait.
_POLL = 0.1
_PROGRAM = "import sys; from siren.cli import finisher; finisher.work(int(sys.argv[1]))"


class Finisher:
    """Has a child write one set of results at a time; the child lives as long as the context.

    It never imports Jittor, ends with this process, and receives no signals from a terminal.
    """

    def __init__(self):
        self.process = self.pipe = None
        self.pending: Callable[[], Any] = lambda: None

    def __enter__(self):
        with contextlib.suppress(OSError):  # ``begin`` tries again
            self._start()  # its imports take as long as those of this process
        return self

    def __exit__(self, *_):
        try:
            self.wait()
        finally:
            self.end()

    def _start(self) -> None:
        """Start the child, if there is none."""
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

    def begin(self, saving) -> Callable[[], Any]:
        """Have the child call ``saving``, a ``finishing.Saving``, after ``wait``.

        Returns a function that waits for the answer: what ``saving`` returns or raises. Should the
        child die, that is called here. Raises an exception if ``saving`` cannot be sent.
        """
        detached = saving.detached()
        self._start()
        try:
            self.pipe.send(detached)
        except OSError:
            pass  # it has died, which ``_answer`` finds out
        except BaseException:
            self.end()
            raise
        self.pending = lambda: self._answer(detached)
        return self.pending

    def _answer(self, saving):
        try:
            while not self.pipe.poll(_POLL):
                pass
            answer, places = self.pipe.recv()
        except Exception:  # it has died, or its answer cannot be read
            self.end()
            recover(saving.folder)
            return saving()
        except BaseException:
            self.end()
            recover(saving.folder)
            raise
        for error, place in zip(_errors(answer), places):
            error.__cause__ = _InTheChild(place)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def keep(self, pending: Callable[[], Any]) -> None:
        """``wait`` calls ``pending``, which calls what ``begin`` returned."""
        self.pending = pending

    def wait(self) -> None:
        """Wait until the child has nothing to do."""
        pending, self.pending = self.pending, lambda: None
        pending()

    def end(self) -> None:
        """End the child, whatever it does: a set of files is written as a whole or not at all."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.pipe.close()
            self.process = None


class _InTheChild(Exception):
    """Where in the child an error was raised: its traceback, which does not come with it."""


def _errors(answer) -> list[Exception]:
    """The errors in an answer: itself, or those of pictures that could not be made."""
    return [answer] if isinstance(answer, Exception) else answer.problems


def work(descriptor: int) -> None:
    """What the child does: call what comes through the pipe, and send back how that ended."""
    from siren.cli import finishing  # noqa: F401  while the first picture is trained

    pipe = Connection(descriptor)
    with contextlib.suppress(EOFError, OSError):
        while True:
            saving = pipe.recv()
            try:
                answer = saving()
            except Exception as error:
                answer = error
            del saving  # before the next one comes
            places = [
                "".join(traceback.format_exception(type(error), error, error.__traceback__))
                for error in _errors(answer)
            ]
            pipe.send((answer, places))
