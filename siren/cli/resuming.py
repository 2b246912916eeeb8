"""``--resume``: going on from the state of an interrupted run, and keeping that of another one."""

from __future__ import annotations

import argparse
import json

from siren import distributed, runtime
from siren.cli.errors import Problem
from siren.cli.identity import identity, shown_path
from siren.npz import FormatError
from siren.training.checkpoint import Checkpoint, StateError


def open_checkpoint(options: argparse.Namespace, device: str, task, network, optimizer):
    """The ``Checkpoint`` of this run, with the state to go on from if ``--resume`` was given.

    A state that is not continued is kept under another name. Raises Problem and OSError.
    """
    first = distributed.rank() == 0
    depends_on = identity(options, device, task) if first else {}
    depends_on = json.loads(distributed.broadcast(json.dumps(depends_on).encode()))
    threads = f"{distributed.world_size()} x {runtime.describe().threads}"
    ours = Checkpoint(options.output_dir, depends_on, threads=threads)
    if options.resume:
        _load(ours, options, task, network, optimizer)
    elif first:
        kept = ours.keep_aside()
        if kept is not None:
            print(
                f"{shown_path(ours.path)} is of an interrupted run, which --resume would have "
                f"continued; it is now {shown_path(kept)}"
            )
    return ours


def _load(ours: Checkpoint, options: argparse.Namespace, task, network, optimizer) -> None:
    try:
        content = ours.content() if distributed.rank() == 0 else b""
        state = ours.load(distributed.broadcast(content))
        state.check(
            options.epochs,
            network.flat.shape[0],
            [var.shape for var in optimizer.vars()],
            task.random is not None,
        )
    except FormatError as error:
        raise Problem(
            f"--resume: {shown_path(ours.path)} is damaged ({error}); leave it out to start anew"
        ) from error
    except StateError as error:
        raise Problem(f"--resume: {error}; leave it out to start anew") from error
    ours.state = state
    print(f"resumed at epoch {state.epoch}", flush=True)
    if state.threads not in ("", ours.threads):
        print(
            f"the state was made by {state.threads} (processes x threads), this run has "
            f"{ours.threads}: its network will be that of an uninterrupted one up to rounding, "
            "not bit for bit"
        )
