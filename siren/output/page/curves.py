"""Curves over the epochs, as SVG.

A drawing is as wide as its place, and its text keeps its size: positions are percentages, and only
the curves themselves, whose strokes do not scale, are stretched.
"""

from __future__ import annotations

import math

from siren.output.page.axis import Axis
from siren.output.page.markup import Markup, join, tag
from siren.output.page.runs import Points

MAX_POINTS = 800  # of a curve that is drawn

_Positions = list  # of (x, y) from 0 to 1, y downwards, or None where the curve is interrupted


def draw_curves(curves: dict[str, Points], description: str, log: bool = False) -> Markup | None:
    """A drawing of ``curves``, by the class that the style sheet knows them by.

    Values that are not finite interrupt a curve. Returns None if there are no others.
    """
    epochs = Axis.around((x for points in curves.values() for x, _ in points), margin=0)
    values = Axis.around((y for points in curves.values() for _, y in points), log)
    if epochs is None or values is None:
        return None
    drawn = {name: _positions(points, epochs, values) for name, points in curves.items()}
    return tag(
        "svg",
        *(_horizontal(1 - position, label) for position, label in values.ticks()),
        *(_vertical(*tick) for tick in epochs.ticks() if not set("-.") & set(tick[1])),
        tag(
            "svg",
            *(tag("path", class_=name, d=_path(_thin(line))) for name, line in drawn.items()),
            viewBox="0 0 1000 1000",
            preserveAspectRatio="none",
            width="100%",
            height="100%",
            overflow="visible",
        ),
        *(_end(name, line) for name, line in drawn.items()),
        class_="plot",
        role="img",
        aria_label=description,
    )


def _horizontal(position: float, label: str) -> Markup:
    y = _percent(position)
    line = tag("line", x1="0", x2="100%", y1=y, y2=y)
    return join([line, tag("text", label, class_="y", x="0", y=y, dx="-8", dy="0.32em")])


def _vertical(position: float, label: str) -> Markup:
    return tag("text", label, class_="x", x=_percent(position), y="100%", dy="1.5em")


def _end(name: str, line: _Positions) -> Markup | None:
    """A dot at the last value, without which a single value would be invisible."""
    last = next((point for point in reversed(line) if point is not None), None)
    return last and tag("circle", class_=name, cx=_percent(last[0]), cy=_percent(last[1]), r="3.5")


def _percent(position: float) -> str:
    return f"{100 * position:.2f}%"


def _positions(points: Points, epochs: Axis, values: Axis) -> _Positions:
    line = []
    for epoch, value in points:
        x, y = epochs.position(epoch), values.position(value)
        line.append(None if x is None or y is None else (x, 1 - y))
    return line


def _thin(line: _Positions) -> _Positions:
    """At most about ``MAX_POINTS``: the highest and the lowest of every so many."""
    if len(line) <= MAX_POINTS:
        return line
    size = math.ceil(2 * len(line) / MAX_POINTS)
    thinned: _Positions = []
    for first in range(0, len(line), size):
        part = line[first : first + size]
        points = [point for point in part if point is not None]
        if points:
            extremes = {min(points, key=lambda p: p[1]), max(points, key=lambda p: p[1])}
            thinned += sorted(extremes)
        if len(points) < len(part):
            thinned.append(None)
    return thinned


def _path(line: _Positions) -> str:
    """The commands of an SVG path, in a square of 1000 units."""
    commands, pen = [], "M"
    for point in line:
        if point is None:
            pen = "M"
            continue
        commands.append(f"{pen}{1000 * point[0]:.1f} {1000 * point[1]:.1f}")
        pen = "L"
    return "".join(commands)
