"""Watching a picture form: the latest one, an animation of all, and curves."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from siren.files import Lock, write_bytes
from siren.images import encode_png, to_uint8

FRAMES = 60  # at most, in an animation
SIDE = 256  # pixels at most
MILLISECONDS = 80  # a frame; the last one stays for LAST
LAST = 2000


@dataclass
class Preview:
    """Refreshes preview.png in ``folder`` and keeps frames for training.gif.

    every  epochs between two pictures
    lock   the run's lock on the folder, which remembers that the picture is the program's own
    """

    folder: Path
    every: int
    lock: Lock
    frames: list[Image.Image] = field(default_factory=list)
    stride: int = 1
    seen: int = 0

    def see(self, picture: np.ndarray) -> None:
        """Take a picture (height, width, channels) in [-1, 1]. Raises OSError."""
        content = encode_png(picture)
        self.lock.record("preview.png", content)
        write_bytes(self.folder / "preview.png", content)
        if self.seen % self.stride == 0:
            if len(self.frames) == FRAMES:  # every second one is enough
                self.frames = self.frames[::2]
                self.stride *= 2
            if self.seen % self.stride == 0:
                self.frames.append(_frame(picture))
        self.seen += 1

    def animation(self, picture: np.ndarray) -> bytes:
        """The content of training.gif, which ends with ``picture``."""
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
        return content.getvalue()


def _frame(picture: np.ndarray) -> Image.Image:
    pixels = to_uint8(picture)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    image.thumbnail((SIDE, SIDE))
    return image


def draw_curves(history) -> bytes | None:
    """A PNG of loss and PSNR over epochs; None where matplotlib is not installed or does not work.

    It may fail in any way, in its import too: whatever a notebook has left in ``MPLBACKEND``, say.
    """
    try:
        from matplotlib.figure import Figure

        return _draw(Figure(figsize=(8, 4.5), layout="constrained"), history)
    except (Exception, SystemExit):
        return None


def _draw(figure, history) -> bytes:
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
    return content.getvalue()
