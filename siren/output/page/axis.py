"""An axis of a drawing: where a value is on it, and its round values."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

_LARGEST = 1e100  # values beyond it are not drawn
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Axis:
    """An axis from ``low`` to ``high``; if it is ``log``, these are decimal logarithms."""

    low: float
    high: float
    log: bool = False

    @classmethod
    def around(cls, values: Iterable[float], log: bool = False, margin: float = 0.05):
        """The axis of all ``values`` that can be drawn; None if none can.

        ``margin`` is left free at both ends, as a share of the length.
        """
        values = [value for value in values if _is_drawable(value, log)]
        if not values:
            return None
        low, high = min(values), max(values)
        if log:
            low, high = math.log10(low), math.log10(high)
        # A single value, up to rounding; libraries built with -Ofast turn smaller numbers into 0.
        if high - low <= max(1e-6 * max(abs(low), abs(high)), 1e-300):
            spread = 0.5 if log else max(1.0, 0.1 * abs(low))
            return cls(low - spread, high + spread, log)
        return cls(low - margin * (high - low), high + margin * (high - low), log)

    def position(self, value: float) -> float | None:
        """Where ``value`` is, from 0 to 1; None if it cannot be drawn."""
        if not _is_drawable(value, self.log):
            return None
        return ((math.log10(value) if self.log else value) - self.low) / (self.high - self.low)

    def ticks(self) -> list[tuple[float, str]]:
        """(position, label) of a few round values."""
        return [(self.position(value), _label(value)) for value in self._round_values()]

    def _round_values(self) -> list[float]:
        if not self.log:
            return _multiples(self.low, self.high)
        decades = range(math.floor(self.low), math.ceil(self.high) + 1)
        if self.high - self.low > 2.5:
            step = math.ceil((self.high - self.low) / 5)
            values = [10.0**decade for decade in decades if decade % step == 0]
        elif self.high - self.low > 0.7:
            values = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
        else:
            values = _multiples(10.0**self.low, 10.0**self.high)
        return [v for v in values if v > 0 and self.low <= math.log10(v) <= self.high]


def _is_drawable(value: float, log: bool) -> bool:
    lowest = 1 / _LARGEST if log else -_LARGEST
    return lowest < value < _LARGEST


def _multiples(low: float, high: float) -> list[float]:
    """The two to six multiples of 1, 2 or 5 times a power of ten from ``low`` to ``high``."""
    unit = 10.0 ** math.floor(math.log10((high - low) / 5))
    step = next(unit * digit for digit in (1, 2, 5, 10) if unit * digit >= (high - low) / 5)
    return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _label(value: float) -> str:
    """``value`` with at most six digits; powers of ten are raised."""
    digits, _, power = f"{value:.6g}".partition("e")
    if not power:
        return digits
    raised = f"10{int(power)}"[2:].translate(_SUPERSCRIPTS)
    return f"10{raised}" if digits == "1" else f"{digits}·10{raised}"
