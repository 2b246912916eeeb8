"""Watching a picture form: the latest one, an animation of all, and curves."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from siren.files import write_bytes
from siren.images import to_uint8, write_png

FRAMES = 60  # at most, in an animation
SIDE = 256  # pixels at most
MILLISECONDS = 80  # a frame; the last one stays for LAST
LAST = 2000


@dataclass
class Preview:
    """Refreshes preview.png in ``folder`` and keeps frames for training.gif.

    every  epochs between two pictures
    """

    folder: Path
    every: int
    frames: list[Image.Image] = field(default_factory=list)
    stride: int = 1
    seen: int = 0

    def see(self, picture: np.ndarray) -> None:
        """Take a picture (height, width, channels) in [-1, 1]. Raises OSError."""
        write_png(self.folder / "preview.png", picture)
        if self.seen % self.stride == 0:
            if len(self.frames) == FRAMES:  # every second one is enough
                self.frames = self.frames[::2]
                self.stride *= 2
            if self.seen % self.stride == 0:
                self.frames.append(_frame(picture))
        self.seen += 1

    def finish(self, picture: np.ndarray) -> None:
        """Write training.gif, which ends with ``picture``. Raises OSError."""
        frames = [*self.frames, _frame(picture)]
        content = io.BytesIO()
        frames[0].save(
            content,
            "GIF",
            save_all=True,
            append_images=frames[1:],
            duration=[MILLISECONDS] * (len(frames) - 1) + [LAST],
            loop=0,
        )
        write_bytes(self.folder / "training.gif", content.getvalue())


def _frame(picture: np.ndarray) -> Image.Image:
    pixels = to_uint8(picture)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    image.thumbnail((SIDE, SIDE))
    return image


def write_curves(folder: Path, history) -> bool:
    """Draw loss and PSNR over epochs into history.png; False where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    losses = figure.subplots()
    epochs = [state.epoch for state in history]
    losses.plot(epochs, [state.loss for state in history], label="loss", color="tab:blue")
    if history[0].validation is not None:
        judged = [(s.epoch, s.validation) for s in history if s.validation is not None]
        losses.plot(*zip(*judged), label="loss that chooses the best epoch", color="tab:cyan")
    losses.set(xlabel="epoch", ylabel="loss", yscale="log")
    quality = losses.twinx()
    measured = [(state.epoch, state.psnr) for state in history if state.psnr is not None]
    quality.plot(*zip(*measured), label="PSNR", color="tab:orange", marker=".")
    quality.set_ylabel("PSNR in dB")
    figure.legend(loc="outside upper center", ncols=3)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    write_bytes(folder / "history.png", content.getvalue())
    return True
