"""What the numbers of a picture mean: which is black, which is white, and what is lost between."""

from __future__ import annotations

import math

import numpy as np

from siren.images.decoding import Samples
from siren.images.opening import ImageError, ImageWarning

_BLOCK = 1 << 20  # numbers that are converted at a time: a picture may be large
_DARK = 4  # a picture is called dark if its largest number is less than white divided by this


class UnknownWhite(ImageError):
    """A file does not say which of its numbers are black and white; ``fact`` has no way out."""

    def __init__(self, fact: str):
        super().__init__(f"{fact}; say so with range=(LOW, HIGH)")
        self.fact = fact


def to_shades(
    samples: Samples, name: str, limits: tuple[float, float] | None, notes: list[ImageWarning]
) -> np.ndarray:
    """``samples`` on white paper, as float32 (height, width, 1 or 3) in [0, 255].

    ``limits`` are the numbers that become 0 and 255; None: those of the file's depth. What is lost
    is appended to ``notes``. ``name`` is that of the file, quoted. Raises ImageError.
    """
    _refuse_not_finite(samples.color, name)
    if limits is None:
        limits = 0.0, _own_white(samples, name, notes)
    elif not samples.has_range:
        raise ImageError(
            f"{name} has colors for which there is no range (CMYK or CIELAB); leave it out, or "
            "save the picture as RGB"
        )
    else:
        _tell_clipped(samples, name, limits, notes)
    shades = _stretch(samples, *limits)
    if samples.alpha is not None:
        opacity = samples.alpha[..., None].astype(np.float32)
        shades = shades * opacity + 255 * (1 - opacity)
    return shades


def _refuse_not_finite(color: np.ndarray, name: str) -> None:
    """Raise ImageError for NaN and infinity."""
    if np.issubdtype(color.dtype, np.floating):
        count = int((~np.isfinite(color)).any(axis=-1).sum())
        if count:
            raise ImageError(
                f"{name} has {count} of {color[..., 0].size} pixels that are not a finite number "
                "(NaN or infinity); replace them first"
            )


def _own_white(samples: Samples, name: str, notes: list[ImageWarning]) -> float:
    """The number that is white without a range. Raises UnknownWhite."""
    low, high = samples.color.min().item(), samples.color.max().item()
    white = samples.white
    if white is None:
        white = _guessed_white(samples.color.dtype, low, high)
    if white is None:
        kind = samples.color.dtype.kind
        kind = {"i": "signed integer", "u": "32-bit integer"}.get(kind, "floating-point")
        raise UnknownWhite(
            f"{name} has {kind} values from {_figure(low)} to {_figure(high)}, and the file does "
            "not say which are black and white"
        )
    if samples.has_range and 0 < high < white / _DARK and not 1 < white <= 255:
        end = "black" if samples.inverted else "white"
        likely = 2 ** max(8, math.ceil(high).bit_length()) - 1 if white > 255 else high
        fact = f"the largest value of {name} is {_figure(high)} of {_figure(white)}"
        notes.append(ImageWarning(fact, f"if {_figure(likely)} is {end}", _figure(likely)))
    return white


def _figure(value: float) -> str:
    """A number as a user would write it."""
    whole = abs(value) < 1e15 and value == int(value)
    return str(int(value)) if whole else f"{value:.7g}"


def _guessed_white(kind: np.dtype, low: float, high: float) -> float | None:
    """White among floating-point numbers from ``low`` to ``high``; None if that is not clear."""
    if not np.issubdtype(kind, np.floating) or low < 0:
        return None
    if high <= 1:
        return 1.0
    return 255.0 if 128 <= high <= 255 else None


def _tell_clipped(samples: Samples, name: str, limits: tuple[float, float], notes: list) -> None:
    """Append how many visible pixels are outside ``limits``."""
    low, high = limits
    for outside, what in (
        (samples.color < low, f"below LOW, {_figure(low)}"),
        (samples.color > high, f"above HIGH, {_figure(high)}"),
    ):
        outside = outside.any(axis=-1)
        if samples.alpha is not None:
            outside &= samples.alpha > 0
        count = int(outside.sum())
        if count:
            share = 100 * count / outside.size
            share = f"{share:.3g}" if share >= 0.01 else "less than 0.01"
            fact = f"{share} % of the pixels of {name} are {what}, and are clipped"
            notes.append(ImageWarning(fact))


def _stretch(samples: Samples, low: float, high: float) -> np.ndarray:
    """The colors as float32 in [0, 255], with ``low`` at 0 and ``high`` at 255."""
    color = samples.color
    shades = np.empty(color.shape, np.float32)
    rows = max(1, _BLOCK // color[0].size)
    for first in range(0, len(color), rows):
        block = color[first : first + rows].astype(np.float64)
        block -= low
        block *= 255 / (high - low)
        if samples.inverted:
            np.subtract(255, block, out=block)
        shades[first : first + rows] = np.clip(block, 0, 255, out=block)
    return shades
