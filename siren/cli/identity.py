"""What a run's network depends on, as JSON can hold it: by this ``--resume`` knows its own run."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

from siren.cli.options import ROOT
from siren.cli.relevance import counted
from siren.text import printable
from siren.training.checkpoint import fingerprint

_IGNORED = ("output_dir", "verbose", "resume", "device", "preview_every", "for_all_tasks")


def asked_for(options: argparse.Namespace) -> dict:
    """The options that a run's network depends on."""
    return {name: as_json(v) for name, v in counted(options).items() if name not in _IGNORED}


def identity(options: argparse.Namespace, device: str, task) -> dict:
    """All that a run's network depends on."""
    held_out = [] if task.held_out is None else task.held_out.arrays()
    data = fingerprint(task.reference, *task.points.arrays(), *held_out)
    return {**asked_for(options), "device": device, "data": data}


def as_json(value):
    """An option's value as JSON can hold it."""
    if isinstance(value, tuple):
        return list(value)
    return shown_path(value) if isinstance(value, Path) else value


def shown_path(path: Path) -> str:
    """``path`` relative to the program where it lies inside it, as text that can be printed."""
    with contextlib.suppress(ValueError, OSError, RuntimeError):  # a loop of links is the last
        path = path.resolve().relative_to(ROOT)
    return printable(str(path))
