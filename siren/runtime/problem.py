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


def last_line(text: str) -> str:
    """The last line of a message that has words in it, without colour codes."""
    lines = [line.strip() for line in strip_colours(text).splitlines() if re.search(r"\w", line)]
    line = lines[-1] if lines else "no message"
    return line if len(line) <= 300 else line[:300] + " ..."


def describe_error(error: BaseException) -> str:
    """An error's type and the last line of its message."""
    return f"{type(error).__name__}: {last_line(str(error))}"


def strip_colours(text: str) -> str:
    """``text`` without a terminal's colour codes."""
    return re.sub(r"\x1b\[[0-9;]*[mK]", "", text)
