"""Curves of loss and PSNR over the epochs, where matplotlib happens to be installed."""

from __future__ import annotations

import io


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
