"""Ctrl-C and SIGTERM: what they do, and when."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading

SIGNALS = signal.SIGINT, signal.SIGTERM


def in_main_thread() -> bool:
    """Whether this is the main thread, the only one that can set signal handlers."""
    return threading.current_thread() is threading.main_thread()


@contextlib.contextmanager
def _handled(handler, ignored_afterwards=lambda: False):
    """Within its context ``handler`` gets both signals; no effect outside the main thread.

    At the end the handlers from before are back, or nothing if ``ignored_afterwards()``.
    """
    if not in_main_thread():
        yield
        return
    owner = os.getpid()

    def handle(number, frame):
        if os.getpid() == owner:
            return handler(number, frame)
        signal.signal(number, signal.SIG_DFL)  # in a fork, such as one of Jittor's compile workers
        return os.kill(os.getpid(), number)

    before = [signal.signal(number, handle) for number in SIGNALS]
    try:
        yield
    finally:
        ignored = ignored_afterwards()
        for number, old in zip(SIGNALS, before):
            old = signal.SIG_IGN if ignored else old
            signal.signal(number, signal.SIG_DFL if old is None else old)


def ignore() -> None:
    """Ignore both signals from now on."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def end_with_parent() -> None:
    """Have the system send SIGTERM to this process when the one that started it dies."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def raising_interrupt():
    """Within its context both signals raise KeyboardInterrupt."""
    return _handled(signal.default_int_handler)


class Stop:
    """Within its context, the first signal sets ``requested``, the next one interrupts.

    Once one was requested, further signals after the context are ignored: the run is ending. A
    context within the context changes nothing.
    """

    def __init__(self):
        self.requested, self.depth = False, 0

    def __call__(self) -> bool:
        """Whether a signal has arrived."""
        return self.requested

    def __enter__(self):
        self.depth += 1
        if self.depth == 1:
            self.handlers = _handled(self._handle, self)
            self.handlers.__enter__()
        return self

    def __exit__(self, *error):
        self.depth -= 1
        if self.depth == 0:
            self.handlers.__exit__(*error)

    def _handle(self, *_):
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


@contextlib.contextmanager
def deferred():
    """Delay both signals to the end of the context, which should be short."""
    arrived = []
    with _handled(lambda number, _: arrived.append(number)):
        yield
    for number in arrived:
        signal.raise_signal(number)


@contextlib.contextmanager
def shield_children():
    """Within its context, the programs that this one starts do not receive the signals.

    Ctrl-C reaches every program of a terminal's foreground group. It would kill Jittor's compilers
    in the middle of their work, with long messages. A program inherits the blocked signals of the
    thread that starts it, so both are blocked in this thread. An extra idle thread receives them
    for this process; the handlers run in the main thread as always.
    """
    done = threading.Event()
    receiver = threading.Thread(target=done.wait, daemon=True)
    receiver.start()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        done.set()
