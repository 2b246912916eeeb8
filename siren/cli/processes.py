"""Several processes that do one run: they must have the same, and share the points."""

from __future__ import annotations

import argparse
import pickle

import numpy as np

from siren import distributed, images
from siren.cli import inputs
from siren.cli.errors import Problem
from siren.tasks import without_pictures


def refuse_disagreement(options: argparse.Namespace, facts: dict) -> None:
    """Raise Problem, in all processes, if ``facts`` or the pictures are not the same in all."""
    if distributed.world_size() == 1:
        return
    facts = dict(facts)
    for option, path in inputs.paths(options).items():
        try:
            facts[f"the picture of --{option}"] = images.content_hash(path)
        except images.ImageError as error:
            raise Problem(f"--{option}: {error}") from error
    names = distributed.disagreements(facts)
    if names:
        what = ", ".join(name if name not in vars(options) else f"--{name}" for name in names)
        raise Problem(f"the processes do not agree on {what}; start all of them with the same")


def scatter_task(task):
    """``task`` of rank 0; in other processes, one that trains on their share of its points.

    These need no pictures for that, and never have more of them than their share.
    """
    if distributed.world_size() == 1:
        return task
    first = distributed.rank() == 0
    content = pickle.dumps(without_pictures(task)) if first else b""
    trained = pickle.loads(distributed.broadcast(content))
    points = task.points if first else trained.points
    values = distributed.scatter(points.values)
    pixels = None if points.pixels is None else distributed.scatter(points.pixels)
    if first:
        return task
    points.set_share(distributed.share(len(points)), values, pixels)
    channels = values.shape[2]
    trained.reference = np.broadcast_to(np.float32(-1), (*points.shape, channels))  # for its shape
    return trained
