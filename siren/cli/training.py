"""The training of one run, from what the user is told first to what is saved last."""

from __future__ import annotations

import argparse

from siren import distributed
from siren.cli.errors import Interrupted, Outcome, tell
from siren.cli.finishing import finish, interrupted
from siren.cli.identity import shown_path
from siren.output.preview import Preview
from siren.training import loop
from siren.training import optimizer as schedules


def train_and_save(
    options: argparse.Namespace,
    device: str,
    origin,
    task,
    network,
    engine,
    optimizer,
    batch,
    ours,
    lock,
    stop,
) -> Outcome:
    """Train ``network`` on ``task`` and save what comes of it.

    ``ours`` is the run's ``Checkpoint``. Whatever ends the run early, the user is told what is
    kept of it.
    """
    height, width = task.reference.shape[:2]
    print(
        f"{options.task}: {shown_path(options.input_path)} at {height} x {width}, "
        f"{len(task.points)} points, {options.epochs} epochs, device {device}",
        flush=True,
    )
    preview = None
    if options.preview_every and distributed.rank() == 0:
        preview = Preview(options.output_dir, options.preview_every, lock)
    try:
        with stop:
            result = loop.train(
                network,
                task,
                engine,
                options.epochs,
                optimizer,
                getattr(schedules, options.schedule),
                ours,
                stop,
                preview,
                batch,
            )
            if distributed.rank() > 0:
                return Outcome(0, result.ended)  # the first one saves
            return finish(options, lock, origin, task, network, engine, result, preview, ours)
    except KeyboardInterrupt:
        raise Interrupted(interrupted(ours)) from None
    except RuntimeError:
        if stop.requested:  # Jittor's compiler was interrupted too
            raise Interrupted(interrupted(ours)) from None
        if ours.written is not None:
            tell(f"the state of epoch {ours.written} is kept; --resume goes on from it")
        raise
