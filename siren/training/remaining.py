"""The time that is left: of a training, and of those that follow it in the same call."""

from __future__ import annotations

import contextlib

_later = 0.0  # seconds of the trainings that follow


@contextlib.contextmanager
def followed_by(seconds: float):
    """Within its context a training is one of several, of which others take ``seconds`` after it.

    0: none follows.
    """
    global _later
    before, _later = _later, seconds
    try:
        yield
    finally:
        _later = before


def in_all(seconds: float) -> str:
    """The time left in words, as ", 2 min 03 s in all"; "" if no training follows.

    seconds  left of the present training
    """
    return f", {duration(seconds + _later)} in all" if _later else ""


def duration(seconds: float) -> str:
    """``seconds`` in words, as "75 min 03 s"."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
