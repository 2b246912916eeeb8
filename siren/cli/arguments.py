"""Types of command-line arguments: numbers in a range, and paths."""

from __future__ import annotations

import math
import os
import re
from argparse import ArgumentTypeError
from pathlib import Path

#: Numbers between 0 and this are refused: products with them would vanish in float32.
SMALLEST = 1e-30
_LONGEST = 1000  # digits of an integer that is read; Python refuses more than 4300


def integer(at_least: int, at_most: int):
    """Argument type: an integer in a range."""

    def convert(text):
        try:
            digits = text.lstrip("+-")
            value = math.inf if len(digits) > _LONGEST and digits.isdecimal() else int(text)
        except ValueError:
            raise ArgumentTypeError(f"{_short(text)!r} is not a whole number") from None
        if not at_least <= value <= at_most:
            raise ArgumentTypeError(
                f"{_short(text)} is out of range; it must be at least {at_least} and at most "
                f"{at_most}"
            )
        return value

    return convert


def number(at_least: float, at_most: float):
    """Argument type: a number in a range that is 0 or can be calculated with in float32."""

    def convert(text):
        try:
            value = float(text)
        except ValueError:
            raise ArgumentTypeError(f"{_short(text)!r} is not a number") from None
        if not at_least <= value <= at_most:  # nor is NaN
            raise ArgumentTypeError(f"{_short(text)} must be between {at_least:g} and {at_most:g}")
        # Jittor's kernels make the processor take the smallest numbers for 0, comparisons included.
        digits = re.split("e", text, flags=re.IGNORECASE)[0]
        if abs(value) < SMALLEST and re.search("[1-9]", digits):
            raise ArgumentTypeError(
                f"{_short(text)} is too close to 0 for 32-bit numbers; give 0, or {SMALLEST:g} at "
                "least"
            )
        return value

    return convert


def path(text: str) -> Path:
    """Argument type: a path that a file can have."""
    if not text:  # which Path would take for the current folder
        raise ArgumentTypeError(
            "the path is empty, as an unset shell variable is; give one, or leave the option out"
        )
    if "\0" in text:
        raise ArgumentTypeError(f"{text!r} has a NUL character in it, as no path can; leave it out")
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise ArgumentTypeError(
            f"{text!r} has characters that no path can have here; rename the file, or set LANG to "
            "a UTF-8 locale"
        ) from None
    return Path(text)


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."
