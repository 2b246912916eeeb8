"""A training to see: its pictures in preview.png and training.gif, its numbers in history.png."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from siren.files import write_bytes
from siren.images import encode_png, to_uint8
from siren.output import PREVIEW, PREVIEW_MARK

MAX_FRAMES = 60  # of the animation
MAX_SIDE = 256  # pixels
FRAME_TIME = 80  # milliseconds
LAST_FRAME_TIME = 2000  # milliseconds

SIZE = (960, 480)  # of history.png
SHARP = 2  # drawn so many times as large, and reduced, which smooths the lines
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 40, 48  # margins of a chart
INK, GRID = "#333", "#ddd"
COLORS = {
    "loss": "#1f77b4",
    "loss that chooses the best epoch": "#17becf",
    "PSNR in dB": "#ff7f0e",
}
_LARGEST = 1e100  # values beyond it are not drawn

Points = list[tuple[float, float]]  # (epoch, value); a value may be any float


@dataclass
class Preview:
    """Refreshes preview.png in ``folder`` and keeps frames for training.gif.

    ``every`` is the number of epochs between two pictures.
    """

    folder: Path
    every: int
    frames: list[Image.Image] = field(default_factory=list)
    stride: int = 1
    count: int = 0

    def update(self, picture: np.ndarray) -> None:
        """Write preview.png of ``picture`` (height, width, channels) in [-1, 1]. Raises OSError."""
        write_bytes(self.folder / PREVIEW, encode_png(picture) + PREVIEW_MARK)
        if self.count % self.stride == 0:
            self.frames.append(_frame(picture))
        if len(self.frames) > MAX_FRAMES:  # drop every second one
            self.frames = self.frames[::2]
            self.stride *= 2
        self.count += 1

    def animation(self, picture: np.ndarray) -> bytes:
        """The content of training.gif, which ends with ``picture``."""
        frames = [*self.frames, _frame(picture)]
        content = io.BytesIO()
        frames[0].save(
            content,
            "GIF",
            save_all=True,
            append_images=frames[1:],
            duration=[FRAME_TIME] * (len(frames) - 1) + [LAST_FRAME_TIME],
            loop=0,
        )
        return content.getvalue()


def _frame(picture: np.ndarray) -> Image.Image:
    pixels = to_uint8(picture)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    return image


# ---- history.png ------------------------------------------------------------------------------


def draw_history(history) -> bytes:
    """The content of the file, a PNG of ``SIZE`` (width, height).

    ``history`` holds an ``Epoch`` for each epoch. What was not measured, or is not finite, is left
    out; the loss has a logarithmic axis.
    """
    losses = {
        "loss": [(state.epoch, state.loss) for state in history],
        "loss that chooses the best epoch": _measured(history, "validation"),
    }
    image = Image.new("RGB", [SHARP * length for length in SIZE], "white")
    draw = ImageDraw.Draw(image)
    half = SIZE[0] // 2
    _draw_chart(draw, 0, half, losses, log=True)
    _draw_chart(draw, half, half, {"PSNR in dB": _measured(history, "psnr")}, log=False)
    content = io.BytesIO()
    image.resize(SIZE, Image.Resampling.LANCZOS).save(content, "png")
    return content.getvalue()


def _measured(history, name: str) -> Points:
    return [(s.epoch, getattr(s, name)) for s in history if getattr(s, name) is not None]


def _draw_chart(draw, start: int, width: int, curves: dict[str, Points], log: bool) -> None:
    """Draw curves with their axes and names between the columns ``start`` and ``start + width``."""
    epochs = Axis.around((x for points in curves.values() for x, _ in points), margin=0)
    values = Axis.around((y for points in curves.values() for _, y in points), log)
    if epochs is None or values is None:
        return
    chart = _Chart(draw, start + LEFT, width - LEFT - RIGHT, SIZE[1] - TOP - BOTTOM)
    for position, value in values.ticks():
        chart.line([(0, 1 - position), (1, 1 - position)], GRID, 1)
        chart.write((0, 1 - position), (-8, 0), f"{value:.6g}", "rm")
    for position, value in epochs.ticks():
        if value == int(value) >= 0:
            chart.write((position, 1), (0, 8), f"{value:.6g}", "mt")
    chart.write((1, 1), (0, 28), "epoch", "rt")
    right = 0
    for name, points in curves.items():
        right += chart.curve(_segments(points, epochs, values), name, right)


class _Chart(NamedTuple):
    """A part of an image: positions (x, y) in it are from 0 to 1, y downwards."""

    draw: ImageDraw.ImageDraw
    left: int
    width: int
    height: int

    def pixel(self, position, offset=(0, 0)) -> tuple[float, float]:
        """Where a position, moved by so many pixels, is in the enlarged image."""
        x = self.left + position[0] * self.width + offset[0]
        y = TOP + position[1] * self.height + offset[1]
        return SHARP * x, SHARP * y

    def curve(self, parts, name: str, right: int) -> float:
        """Draw a curve, and its name above, ``right`` pixels from the left; returns its length."""
        for part in parts:
            self.line(part, COLORS[name], 2)
        if not parts:
            return 0
        # A dot at the last value, without which a single one would be invisible.
        x, y = self.pixel(parts[-1][-1])
        size = 4 * SHARP
        self.draw.ellipse([x - size, y - size, x + size, y + size], COLORS[name])
        return 24 + self.write((0, 0), (right, -TOP / 2), name, "lm", COLORS[name])

    def line(self, positions, color: str, width: int) -> None:
        self.draw.line([self.pixel(each) for each in positions], color, width * SHARP, "curve")

    def write(self, position, offset, text: str, anchor: str, color: str = INK) -> float:
        """Write ``text``; returns its length in pixels."""
        font = ImageFont.load_default(13 * SHARP)
        self.draw.text(self.pixel(position, offset), text, color, font, anchor)
        return self.draw.textlength(text, font) / SHARP


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


def _segments(points: Points, epochs: Axis, values: Axis) -> list[list[tuple[float, float]]]:
    """The uninterrupted parts of a curve: positions (x, y) from 0 to 1, y downwards."""
    positions = [(epochs.position(epoch), values.position(value)) for epoch, value in points]
    parts = groupby(positions, lambda position: None not in position)
    return [[(x, 1 - y) for x, y in part] for drawable, part in parts if drawable]
