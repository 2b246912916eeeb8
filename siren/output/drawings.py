"""HTML and SVG from Python: elements, in which nothing can be left unescaped; curves and bars.

Whatever is not ``Markup`` is text: it is escaped, and control characters in it become visible.

A drawing is as wide as its place, and its text keeps its size: positions are percentages, and only
the curves themselves, whose strokes do not scale, are stretched.
"""

from __future__ import annotations

import html
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from urllib.parse import quote

from siren.text import decibels, printable

MAX_POINTS = 800  # of a curve that is drawn
EXACT = 100  # dB; from here on, two pictures differ by rounding errors only

_LARGEST = 1e100  # values beyond it are not drawn
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

Points = list[tuple[float, float]]  # (epoch, value); a value may be any float

_VOID = ("img", "source")


# ---- elements ---------------------------------------------------------------------------------


class Markup(str):
    """Text that is HTML already."""


def escape(content) -> Markup:
    """``content`` as HTML: itself if it is ``Markup``, otherwise its text."""
    return content if isinstance(content, Markup) else Markup(html.escape(printable(str(content))))


def join(parts) -> Markup:
    """One piece of HTML of several; None is left out."""
    return Markup("".join(escape(part) for part in parts if part is not None))


def tag(name: str, /, *children, **attributes) -> Markup:
    """An element with its children and attributes, of which those that are None are left out.

    ``class_`` stands for class, and ``aria_label`` for aria-label.
    """
    start = name
    for key, value in attributes.items():
        if value is not None:
            start += f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
    if name in _VOID:
        return Markup(f"<{start}>")
    return Markup(f"<{start}>{join(children)}</{name}>")


def link(*parts: str) -> str:
    """The relative URL of the file whose path has these ``parts``; they need not be Unicode."""
    return "/".join(quote(os.fsencode(part), safe="") for part in parts)


# ---- axes --------------------------------------------------------------------------------------


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

    def ticks(self) -> list[tuple[float, float]]:
        """(position, value) of a few round values."""
        return [(self.position(value), value) for value in self._round_values()]

    def whole_ticks(self) -> list[tuple[float, float]]:
        """Those whose value is a whole number from 0 on, such as an epoch's."""
        return [tick for tick in self.ticks() if tick[1] == int(tick[1]) >= 0]

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
    raised = str(int(power)).translate(_SUPERSCRIPTS)
    return f"10{raised}" if digits == "1" else f"{digits}·10{raised}"


# ---- curves ------------------------------------------------------------------------------------


def draw_curves(curves: dict[str, Points], description: str, log: bool = False) -> Markup | None:
    """A drawing of ``curves``, by the class that the style sheet knows them by.

    Values that are not finite interrupt a curve. Returns None if there are no others.
    """
    epochs, values = axes(curves, log)
    if epochs is None or values is None:
        return None
    lines = {name: segments(points, epochs, values) for name, points in curves.items()}
    return tag(
        "svg",
        *(_horizontal(1 - position, value) for position, value in values.ticks()),
        *(_vertical(*tick) for tick in epochs.whole_ticks()),
        tag(
            "svg",
            *(tag("path", class_=name, d=_path(parts)) for name, parts in lines.items()),
            viewBox="0 0 1000 1000",
            preserveAspectRatio="none",
            width="100%",
            height="100%",
            overflow="visible",
        ),
        *(_end(name, parts) for name, parts in lines.items()),
        class_="plot",
        role="img",
        aria_label=description,
    )


def axes(curves: dict[str, Points], log: bool) -> tuple[Axis | None, Axis | None]:
    """The axes of epochs and of values; None without any that can be drawn."""
    epochs = Axis.around((x for points in curves.values() for x, _ in points), margin=0)
    return epochs, Axis.around((y for points in curves.values() for _, y in points), log)


def _horizontal(position: float, value: float) -> Markup:
    y = f"{position:.2%}"
    line = tag("line", x1="0", x2="100%", y1=y, y2=y)
    return join([line, tag("text", _label(value), class_="y", x="0", y=y, dx="-8", dy="0.32em")])


def _vertical(position: float, value: float) -> Markup:
    return tag("text", _label(value), class_="x", x=f"{position:.2%}", y="100%", dy="1.5em")


def segments(points: Points, epochs: Axis, values: Axis) -> list[list[tuple[float, float]]]:
    """The uninterrupted parts of a curve: positions (x, y) from 0 to 1, y downwards."""
    positions = [(epochs.position(epoch), values.position(value)) for epoch, value in points]
    parts = groupby(positions, lambda position: None not in position)
    return [[(x, 1 - y) for x, y in part] for drawable, part in parts if drawable]


def _path(segments) -> str:
    """The commands of an SVG path, in a square of 1000 units.

    Of more than ``MAX_POINTS``, the highest and the lowest of every so many are left.
    """
    count, path = sum(map(len, segments)), ""
    size = math.ceil(2 * count / MAX_POINTS) if count > MAX_POINTS else 1
    for line in segments:
        blocks = [line[first : first + size] for first in range(0, len(line), size)]
        extremes = [{min(b, key=itemgetter(1)), max(b, key=itemgetter(1))} for b in blocks]
        points = [point for pair in extremes for point in sorted(pair)]
        path += "M" + "L".join(f"{1000 * x:.1f} {1000 * y:.1f}" for x, y in points)
    return path


def _end(name: str, segments) -> Markup | None:
    """A dot at the last value, without which a single value would be invisible."""
    if not segments:
        return None
    x, y = segments[-1][-1]
    return tag("circle", class_=name, cx=f"{x:.2%}", cy=f"{y:.2%}", r="3.5")


# ---- bars --------------------------------------------------------------------------------------


def draw_bars(scores: dict[str, float | None], own: str) -> Markup:
    """A table of ``scores``, PSNR in dB by name, with a bar for each; ``own`` is the network's.

    The highest score has the longest bar.
    """
    lengths = [min(score, EXACT) for score in scores.values() if score is not None and score > 0]
    longest = max(lengths, default=1.0)
    rows = []
    for name, score in scores.items():
        exact = score is not None and score >= EXACT
        share = min(score, longest) / longest if score is not None and score > 0 else 0
        bar = tag("rect", width=f"{share:.1%}", height="100%", rx="3")
        rows.append(
            tag(
                "tr",
                tag("th", name, scope="row"),
                tag("td", tag("svg", bar, class_="bar", aria_hidden="true")),
                tag("td", "exact" if exact else decibels(score), class_="number"),
                class_="own" if name == own else "exact" if exact else None,
            )
        )
    return tag("table", tag("tbody", *rows), class_="bars")
