"""Undoes what Jittor does to signals.

Its handlers end the process at once, on Ctrl-C and when any child process is killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading

# The variable by which Jittor knows a notebook, and then leaves Ctrl-C alone.
_NOTEBOOK = "JPY_PARENT_PID"


def in_main_thread() -> bool:
    """Whether this thread is the one that Python lets handle signals."""
    return threading.current_thread() is threading.main_thread()


def load_without_handlers(load) -> None:
    """Call ``load``, which lets Jittor install its handlers, and give the signals back."""
    notebook = os.environ.get(_NOTEBOOK)
    os.environ[_NOTEBOOK] = notebook or "0"
    try:
        load()
    finally:
        if notebook is None:
            del os.environ[_NOTEBOOK]
        give_signals_back()


@contextlib.contextmanager
def sigterm_as_by_default():
    """Within its context SIGTERM ends this process, and those that it forks, at once.

    A process that is forked and ended at the same moment, as Jittor's workers are, would lose the
    signal if Python handled it.
    """
    if not in_main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def give_signals_back() -> None:
    """Let the handlers that Python knows be in force again."""
    if not in_main_thread():
        return
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGCHLD):
        handler = signal.getsignal(number)
        if handler is not None:
            signal.signal(number, handler)
