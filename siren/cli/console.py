"""What is printed reaches the terminal as text, or nobody; either way the run goes on."""

from __future__ import annotations

import contextlib
import io
import os
import re
import select
import sys

_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # all but tab, newline and return


class Console(io.TextIOBase):
    """A text stream on a file descriptor that no text and no reader can break.

    Control characters and what the encoding does not know are written as escapes. Where nobody
    listens any more (a closed pipe, a full disk) everything is dropped silently.
    """

    def __init__(self, descriptor: int, encoding: str):
        self.descriptor = descriptor
        self.name = encoding
        self.silent = False

    @property
    def encoding(self) -> str:
        """Of what is written."""
        return self.name

    def fileno(self) -> int:
        """The file descriptor."""
        return self.descriptor

    def writable(self) -> bool:
        """It always is."""
        return True

    def isatty(self) -> bool:
        """Whether a person watches."""
        return not self.silent and os.isatty(self.descriptor)

    def write(self, text: str) -> int:
        """Write it at once; returns the length of ``text``."""
        safe = _CONTROLS.sub(lambda match: f"\\x{ord(match[0]):02x}", text)
        data = memoryview(safe.encode(self.name, errors="backslashreplace"))
        while data and not self.silent:
            try:
                data = data[os.write(self.descriptor, data) :]
            except BlockingIOError:
                select.select([], [self.descriptor], [])
            except OSError:
                self.silent = True
        return len(text)


@contextlib.contextmanager
def safe_streams():
    """Within its context ``sys.stdout`` and ``sys.stderr`` are ``Console``s.

    Streams that somebody else has put there, as a test does, stay. The three standard descriptors
    are open afterwards: the next file would get the number of one that is closed, and Jittor's
    messages with it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    sys.stdout = _safe(sys.stdout, sys.__stdout__, 1)
    sys.stderr = _safe(sys.stderr, sys.__stderr__, 2)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _safe(stream, original, descriptor: int):
    if stream is not original:
        return stream
    if stream is None:
        return Console(descriptor, "utf-8")
    with contextlib.suppress(OSError, ValueError):
        stream.flush()
    return Console(descriptor, stream.encoding or "utf-8")
