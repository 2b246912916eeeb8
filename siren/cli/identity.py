"""What a run's network depends on, as JSON values: ``--resume`` compares these."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

from siren.cli.options import ROOT
from siren.cli.relevance import effective_options
from siren.text import printable
from siren.training.checkpoint import fingerprint

_IGNORED = ("output_dir", "verbose", "resume", "device", "preview_every")


def identity_options(options: argparse.Namespace) -> dict:
    """The options that a run's network depends on."""
    return {name: v for name, v in json_options(options).items() if name not in _IGNORED}


def identity(options: argparse.Namespace, device: str, task) -> dict:
    """Everything that a run's network depends on."""
    held_out = [] if task.held_out is None else task.held_out.arrays()
    data = fingerprint(task.reference, *task.points.arrays(), *held_out)
    return {**identity_options(options), "device": device, "data": data}


def json_options(options: argparse.Namespace) -> dict:
    """The options that have an effect in the run, as JSON stores them."""
    return {name: _as_json(value) for name, value in effective_options(options).items()}


def _as_json(value):
    if isinstance(value, tuple):
        return list(value)
    return display_path(value) if isinstance(value, Path) else value


def display_path(path: Path) -> str:
    """``path`` as printable text; relative to the program's folder if it is inside."""
    with contextlib.suppress(ValueError, OSError, RuntimeError):  # RuntimeError: a loop of links
        path = path.resolve().relative_to(ROOT)
    return printable(str(path))
