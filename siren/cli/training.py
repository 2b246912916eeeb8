"""What surrounds the training of a run: a line before it, a preview, and the ways it can end."""

from __future__ import annotations

import argparse
import contextlib

from siren.cli.errors import Interrupted, tell
from siren.cli.finishing import interrupted
from siren.cli.identity import shown_path
from siren.output.preview import Preview
from siren.signals import Stop
from siren.training.checkpoint import Checkpoint


def announce(options: argparse.Namespace, task, device: str) -> None:
    """Say what is about to be trained."""
    height, width = task.reference.shape[:2]
    print(
        f"{options.task}: {shown_path(options.input_path)} at {height} x {width}, "
        f"{len(task.points)} points, {options.epochs} epochs, device {device}",
        flush=True,
    )


def open_preview(options: argparse.Namespace, lock) -> Preview | None:
    """What ``--preview_every`` asks for, in the process that writes."""
    if options.preview_every == 0 or lock is None:
        return None
    return Preview(options.output_dir, options.preview_every, lock)


@contextlib.contextmanager
def ending(checkpoint: Checkpoint, stop: Stop):
    """Around training and saving: ``stop`` has the signals, and the user is told what is kept."""
    try:
        with stop:
            yield
    except KeyboardInterrupt:
        raise Interrupted(interrupted(checkpoint)) from None
    except RuntimeError:
        if stop.requested:  # Jittor's compiler was interrupted too
            raise Interrupted(interrupted(checkpoint)) from None
        if checkpoint.written is not None:
            tell(f"the state of epoch {checkpoint.written} is kept; --resume goes on from it")
        raise
