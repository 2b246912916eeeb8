"""Ctrl-C and SIGTERM: what they interrupt, and when."""

from __future__ import annotations

import contextlib
import os
import signal
import threading

SIGNALS = signal.SIGINT, signal.SIGTERM


def _raise(*_):
    raise KeyboardInterrupt


@contextlib.contextmanager
def _handled(handler):
    """Within its context both signals go to ``handler``; only the main thread can have that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def handle(number, frame):
        if os.getpid() == owner:
            return handler(number, frame)
        signal.signal(number, signal.SIG_DFL)  # a fork, as Jittor's compile workers are
        return os.kill(os.getpid(), number)

    before = [signal.signal(number, handle) for number in SIGNALS]
    try:
        yield
    finally:
        for number, old in zip(SIGNALS, before):
            signal.signal(number, signal.SIG_DFL if old is None else old)


def ignore() -> None:
    """From now on neither does anything."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def interrupting():
    """Within its context both raise KeyboardInterrupt."""
    return _handled(_raise)


class Stop:
    """Within its context, the first Ctrl-C or SIGTERM is a request, the next one interrupts."""

    def __init__(self):
        self.requested = False

    def __call__(self) -> bool:
        """Was it asked for?"""
        return self.requested

    def __enter__(self):
        """Take the signals over."""
        self.taken = _handled(self._handle)
        self.taken.__enter__()
        return self

    def __exit__(self, *error):
        """Give them back."""
        self.taken.__exit__(*error)

    def _handle(self, *_):
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


@contextlib.contextmanager
def held_back():
    """Within its context, which should be short, they wait; what came is then as if it came now."""
    arrived = []
    with _handled(lambda number, _: arrived.append(number)):
        yield
    for number in arrived:
        signal.raise_signal(number)


@contextlib.contextmanager
def sheltered():
    """Within its context, programs that this one starts are spared both signals.

    Ctrl-C reaches every program of a terminal's foreground group: Jittor's compilers would be
    killed in mid-work, and say so at length. They inherit the signals that are blocked in the
    thread that starts them; here a thread of its own, which does nothing else, receives them for
    this process, and their handlers run in the main thread as ever.
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
