"""Removes Jittor's signal handlers.

They end the process at once, on Ctrl-C and when any child process is killed.
"""

from __future__ import annotations

import contextlib
import os
import signal

from siren.signals import in_main_thread

# If this variable is set, Jittor assumes a notebook and does not handle Ctrl-C.
_NOTEBOOK = "JPY_PARENT_PID"


def load_without_handlers(load) -> None:
    """Call ``load``, during which Jittor installs its handlers, and restore Python's."""
    notebook = os.environ.get(_NOTEBOOK)
    os.environ[_NOTEBOOK] = notebook or "0"
    try:
        load()
    finally:
        if notebook is None:
            del os.environ[_NOTEBOOK]
        restore_signals()


@contextlib.contextmanager
def default_sigterm():
    """Within its context SIGTERM ends this process, and those that it forks, at once.

    Jittor may end a worker immediately after forking it; if Python handled SIGTERM, the signal
    would be lost.
    """
    if not in_main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def restore_signals() -> None:
    """Reinstall the handlers that Python has registered."""
    if not in_main_thread():
        return
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGCHLD):
        handler = signal.getsignal(number)
        if handler is not None:
            signal.signal(number, handler)
