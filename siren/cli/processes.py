"""Several processes in one run: they must agree on their inputs, and they share the points."""

from __future__ import annotations

import argparse
import pickle

import numpy as np

from siren import distributed, images
from siren.cli import inputs
from siren.cli.errors import Problem
from siren.tasks.task import without_pictures


def broadcast(value):
    """Rank 0's ``value``, in all processes; it can be pickled."""
    return pickle.loads(distributed.broadcast(pickle.dumps(value)))


def check_agreement(options: argparse.Namespace, facts: dict) -> None:
    """Raise Problem in all processes if ``facts`` or the input pictures differ between them."""
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
        raise Problem(f"the processes do not agree on {what}; it must be the same in all of them")


def scatter_task(task):
    """Rank 0 gets its ``task`` back; the others get a copy with their share of its points.

    The copy has no pictures. What other ranks pass is ignored.
    """
    if distributed.world_size() == 1:
        return task
    root = distributed.rank() == 0
    content = pickle.dumps(without_pictures(task)) if root else b""
    copy = pickle.loads(distributed.broadcast(content))
    points = task.points if root else copy.points
    values = distributed.scatter(points.values)
    pixels = None if points.pixels is None else distributed.scatter(points.pixels)
    if root:
        return task
    points.set_share(distributed.share(len(points)), values, pixels)
    channels = values.shape[2]
    copy.reference = np.broadcast_to(np.float32(-1), (*points.shape, channels))  # for its shape
    return copy
