"""Text for people: printed so that no file name and no closed pipe does harm; results in words."""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import select
import sys

# C0, C1 and DEL, bidirectional controls, separators of lines and paragraphs, lone surrogates.
_UNSAFE = re.compile(r"[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
SCORE_NAMES = ("PSNR", "SSIM", "seconds")  # what ``score_cells`` has in its three cells


def printable(text: str, but: str = "") -> str:
    r"""``text`` as one line without control characters, which could control a terminal.

    They become escapes such as ``\x1b`` and ``\n``, except those in ``but``. So do bytes of a name
    that are not text, which Python represents as surrogates: ``\xff``. All other Unicode stays.
    """
    return _UNSAFE.sub(lambda match: match[0] if match[0] in but else _escape(match[0]), text)


def _escape(character: str) -> str:
    byte = ord(character) - 0xDC00  # if the character is a surrogate for a byte
    if 0x80 <= byte <= 0xFF:
        return f"\\x{byte:02x}"
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


class Console(io.TextIOBase):
    """A text stream on a file descriptor that never raises.

    Control characters except tabs and newlines, and characters that the encoding lacks, are written
    as escapes. After a failed write (a closed pipe, a full disk) all output is dropped.
    """

    encoding = ""  # replaces a property that cannot be set

    def __init__(self, descriptor: int, encoding: str):
        self.descriptor = descriptor
        self.encoding = encoding
        self.silent = False

    def fileno(self) -> int:
        """The file descriptor."""
        return self.descriptor

    def writable(self) -> bool:
        """Always true."""
        return True

    def isatty(self) -> bool:
        """Whether the output goes to a terminal."""
        return not self.silent and os.isatty(self.descriptor)

    def write(self, text: str) -> int:
        """Write ``text`` without buffering; returns its length."""
        safe = printable(text, but="\t\n\r")
        data = memoryview(safe.encode(self.encoding, errors="backslashreplace"))
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

    Streams that have been replaced, for example by a test, stay. Closed standard descriptors are
    opened on /dev/null: the next opened file would otherwise get such a number, and Jittor's
    messages would go into it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    sys.stdout = _wrap(sys.stdout, sys.__stdout__, 1)
    sys.stderr = _wrap(sys.stderr, sys.__stderr__, 2)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _wrap(stream, original, descriptor: int):
    if stream is not original:
        return stream
    if stream is None:
        return Console(descriptor, "utf-8")
    with contextlib.suppress(OSError, ValueError):
        stream.flush()
    return Console(descriptor, stream.encoding or "utf-8")


# ---- results in words ---------------------------------------------------------------------------


def decibels(psnr: float | None, undefined: str = "n/a") -> str:
    """PSNR, as "31.25 dB"; ``undefined`` for None and NaN."""
    return undefined if psnr is None or not psnr > -math.inf else f"{psnr:.2f} dB"


def similarity(ssim: float | None, undefined: str = "n/a") -> str:
    """SSIM, as "0.875"; ``undefined`` for None."""
    return undefined if ssim is None else f"{ssim:.3f}"


def score_cells(scores) -> tuple[str, str, str]:
    """The ``psnr``, ``ssim`` and ``seconds`` of ``scores`` for a table; "" where one is None."""
    seconds = "" if scores.seconds is None else f"{scores.seconds:.1f}"
    return decibels(scores.psnr, ""), similarity(scores.ssim, ""), seconds


def duration(seconds: float) -> str:
    """``seconds`` in words, as "75 min 03 s"."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def align(lines: list[tuple[str, ...]], right: tuple[int, ...] = ()) -> str:
    """The cells of ``lines`` as text in columns; those numbered in ``right`` end at their right."""
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(line, widths))
        ).rstrip()
        for line in lines
    )
