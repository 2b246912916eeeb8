"""The error map of a run, from its saved pictures."""

from __future__ import annotations

import base64
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from siren.images import ImageError, ImageWarning, encode_png, read_image
from siren.output.page.picture_size import picture_size
from siren.pictures import absolute_error

MAX_PIXELS = 1 << 22  # of a picture; the error maps of larger ones take too long
MAX_SIDE = 512  # pixels of a map


@dataclass(frozen=True)
class ErrorMap:
    """A picture of the absolute error.

    url      of a PNG, which it contains
    size     (height, width) in pixels
    largest  error, which is white
    block    pixels per side of the square whose largest error each pixel of the map shows
    """

    url: str
    size: tuple[int, int]
    largest: float
    block: int


def draw_error_map(output: Path, reference: Path, channels: int) -> ErrorMap | None:
    """The error of the saved ``output``; None unless both are pictures of one moderate size."""
    size = picture_size(output)
    if size is None or size != picture_size(reference) or size[0] * size[1] > MAX_PIXELS:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ImageWarning)  # a result may be dark
            pictures = [read_image(path, channels) for path in (output, reference)]
    except (ImageError, MemoryError):
        return None
    if pictures[0].shape != pictures[1].shape:  # one was replaced just now
        return None
    error, largest = absolute_error(*pictures)
    block = -(-max(error.shape) // MAX_SIDE)
    for axis in (0, 1):
        error = np.maximum.reduceat(error, np.arange(0, error.shape[axis], block), axis)
    content = base64.b64encode(encode_png(error)).decode()
    return ErrorMap(f"data:image/png;base64,{content}", error.shape[:2], largest, block)
