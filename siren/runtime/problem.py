"""What goes wrong with the machine, in one sentence each."""

from __future__ import annotations

import re
import sys


class RuntimeProblem(RuntimeError):
    """Jittor, or the device asked for, cannot be used; the message is a sentence for the user."""


def say(sentence: str) -> None:
    """Tell the user on stderr."""
    print(sentence, file=sys.stderr, flush=True)


def last_line(text: str) -> str:
    """The last line of a message that says something, without Jittor's colours."""
    lines = [line.strip() for line in plain(text).splitlines() if re.search(r"\w", line)]
    line = lines[-1] if lines else "no message"
    return line if len(line) <= 300 else line[:300] + " ..."


def describe_error(error: BaseException) -> str:
    """An error's type and the last line of its message."""
    return f"{type(error).__name__}: {last_line(str(error))}"


def plain(text: str) -> str:
    """The text without the codes that colour it in a terminal."""
    return re.sub(r"\x1b\[[0-9;]*[mK]", "", text)
