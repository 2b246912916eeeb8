"""Problems of the machine, reported in one sentence each."""

from __future__ import annotations

import re
import sys


class RuntimeProblem(RuntimeError):
    """Jittor or the device cannot be used; the message is a sentence for the user."""


class SettingProblem(RuntimeProblem):
    """The same because of a variable that the user has set, or of how the program was started."""


def notify(sentence: str) -> None:
    """Print a line on stderr."""
    print(sentence, file=sys.stderr, flush=True)


def telling_line(output: str) -> str:
    """The line of a program's output that says most: the first error, or else the last line.

    It has no colour codes. It is empty if no line has words in it.
    """
    lines = [line.strip() for line in strip_colours(output).splitlines() if re.search(r"\w", line)]
    errors = [line for line in lines if re.search(r"\b(error|fatal)\s*: ", line, re.IGNORECASE)]
    line = (errors or lines[-1:] or [""])[0]
    return line if len(line) <= 300 else line[:300] + " ..."


def describe_error(error: BaseException) -> str:
    """An error's type and the telling line of its message."""
    return f"{type(error).__name__}: {telling_line(str(error)) or 'no message'}"


def strip_colours(text: str) -> str:
    """``text`` without a terminal's colour codes."""
    return re.sub(r"\x1b\[[0-9;]*[mK]", "", text)
