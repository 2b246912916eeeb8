"""Types of command-line arguments, numbers in a range and paths; and their values in words."""

from __future__ import annotations

import math
import re
from argparse import ArgumentTypeError
from pathlib import Path

#: Numbers between 0 and this are refused: products with them would underflow to 0 in float32.
SMALLEST = 1e-30
_MAX_DIGITS = 1000  # of an integer; Python's int() refuses more than 4300


def integer(at_least: int, at_most: int):
    """Argument type: an integer in a range."""

    def convert(text):
        try:
            digits = text.lstrip("+-")
            value = math.inf if len(digits) > _MAX_DIGITS and digits.isdecimal() else int(text)
        except ValueError:
            raise ArgumentTypeError(f"{_shorten(text)!r} is not a whole number") from None
        if not at_least <= value <= at_most:
            raise ArgumentTypeError(
                f"{_shorten(text)} is out of range; it must be at least {at_least} and at most "
                f"{at_most}"
            )
        return value

    return convert


def number(at_least: float, at_most: float):
    """Argument type: a number in a range that is 0 or large enough for float32 arithmetic."""

    def convert(text):
        try:
            value = float(text)
        except ValueError:
            raise ArgumentTypeError(f"{_shorten(text)!r} is not a number") from None
        if not at_least <= value <= at_most:  # nor is NaN
            raise ArgumentTypeError(
                f"{_shorten(text)} must be between {at_least:g} and {at_most:g}"
            )
        # Jittor's kernels flush subnormals to 0, in this process's own comparisons too.
        digits = re.split("e", text, flags=re.IGNORECASE)[0]
        if abs(value) < SMALLEST and re.search("[1-9]", digits):
            raise ArgumentTypeError(
                f"{_shorten(text)} is too close to 0 for 32-bit numbers; give 0, or at least "
                f"{SMALLEST:g}"
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


def _shorten(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."
