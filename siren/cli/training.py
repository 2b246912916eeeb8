"""Around the training of a run: the line before it, the preview, interruptions."""

from __future__ import annotations

import argparse
import contextlib

from siren.cli.errors import Interrupted, notify
from siren.cli.finishing import interruption_message
from siren.cli.identity import display_path
from siren.output.preview import Preview
from siren.signals import Stop
from siren.training.checkpoint import Checkpoint


def announce(options: argparse.Namespace, task, device: str) -> None:
    """Print what is about to be trained."""
    height, width = task.reference.shape[:2]
    print(
        f"{options.task}: {display_path(options.input_path)} at {height} x {width}, "
        f"{len(task.points)} points, {options.epochs} epochs, device {device}",
        flush=True,
    )


def make_preview(options: argparse.Namespace, lock) -> Preview | None:
    """The ``Preview`` of ``--preview_every`` in rank 0; None in others or without the option."""
    if options.preview_every == 0 or lock is None:
        return None
    return Preview(options.output_dir, options.preview_every, lock)


@contextlib.contextmanager
def handle_interruption(checkpoint: Checkpoint, stop: Stop):
    """Around training and saving: ``stop`` handles signals, and the user learns what is saved.

    Raises Interrupted for KeyboardInterrupt.
    """
    try:
        with stop:
            yield
    except KeyboardInterrupt:
        raise Interrupted(interruption_message(checkpoint)) from None
    except RuntimeError:
        if stop.requested:  # the signal has also reached Jittor's compiler
            raise Interrupted(interruption_message(checkpoint)) from None
        if checkpoint.written is not None:
            notify(f"the state of epoch {checkpoint.written} is kept; --resume goes on from it")
        raise
