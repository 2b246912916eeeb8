"""Types of command-line arguments, numbers in a range and paths; and their values in words."""

from __future__ import annotations

from argparse import ArgumentTypeError
from pathlib import Path


def integer(at_least: int, at_most: int):
    """Argument type: an integer in a range."""
    return _in_range(int, "a whole number", at_least, at_most)


def number(at_least: float, at_most: float):
    """Argument type: a number in a range."""
    return _in_range(float, "a number", at_least, at_most)


def _in_range(kind: type, what: str, at_least, at_most):
    def convert(text):
        shown = text if len(text) <= 40 else text[:37] + "..."
        try:
            value = kind(text)
        except ValueError:
            raise ArgumentTypeError(f"{shown!r} is not {what}") from None
        if not at_least <= value <= at_most:  # nor is NaN
            raise ArgumentTypeError(
                f"{shown} must be between {in_words(at_least)} and {in_words(at_most)}"
            )
        return value

    return convert


def path(text: str) -> Path:
    """Argument type: a path."""
    if not text:  # Path("") is the current folder
        raise ArgumentTypeError(
            "the path is empty, as an unset shell variable is; give one, or leave the option out"
        )
    return Path(text)


def in_words(value) -> str:
    """``value`` as it is given on the command line; "" for None."""
    if isinstance(value, tuple):
        return " ".join(map(in_words, value))
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
