"""history.png: curves of loss and PSNR over the epochs, if matplotlib is installed."""

from __future__ import annotations

import io
import logging


def draw_curves(history) -> bytes | None:
    """The content of a PNG; None if matplotlib is missing or fails.

    Any error is caught: even the import can fail, for example after a notebook has set
    ``MPLBACKEND``.
    """
    # It would warn of a folder for its settings that cannot be written, though it does without.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
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
        measured = [(s.epoch, s.validation) for s in history if s.validation is not None]
        losses.plot(*zip(*measured), label="loss that chooses the best epoch", color="tab:cyan")
    losses.set(xlabel="epoch", ylabel="loss", yscale="log")
    quality = losses.twinx()
    measured = [(state.epoch, state.psnr) for state in history if state.psnr is not None]
    quality.plot(*zip(*measured), label="PSNR", color="tab:orange", marker=".")
    quality.set_ylabel("PSNR in dB")
    figure.legend(loc="outside upper center", ncols=3)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    return content.getvalue()
