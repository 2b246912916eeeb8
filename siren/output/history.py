"""history.png: loss and PSNR over the epochs, drawn with Pillow."""

from __future__ import annotations

import io
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from siren.output.drawings import Points, axes, segments

SIZE = (960, 480)
SHARP = 2  # drawn so many times as large, and reduced, which smooths the lines
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 40, 48  # margins of a chart
INK, GRID = "#333", "#ddd"
COLORS = {
    "loss": "#1f77b4",
    "loss that chooses the best epoch": "#17becf",
    "PSNR in dB": "#ff7f0e",
}


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
    epochs, values = axes(curves, log)
    if epochs is None or values is None:
        return
    chart = _Chart(draw, start + LEFT, width - LEFT - RIGHT, SIZE[1] - TOP - BOTTOM)
    for position, value in values.ticks():
        chart.line([(0, 1 - position), (1, 1 - position)], GRID, 1)
        chart.write((0, 1 - position), (-8, 0), f"{value:.6g}", "rm")
    for position, value in epochs.whole_ticks():
        chart.write((position, 1), (0, 8), f"{value:.6g}", "mt")
    chart.write((1, 1), (0, 28), "epoch", "rt")
    right = 0
    for name, points in curves.items():
        right += chart.curve(segments(points, epochs, values), name, right)


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
