"""preview.png, the latest picture of a training, and training.gif, an animation of all."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from siren.files import write_bytes
from siren.images import encode_png, to_uint8
from siren.output import PREVIEW, PREVIEW_MARK

MAX_FRAMES = 60
MAX_SIDE = 256  # pixels
FRAME_TIME = 80  # milliseconds
LAST_FRAME_TIME = 2000  # milliseconds


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
