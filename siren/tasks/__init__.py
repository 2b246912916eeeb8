"""The four experiments. They share one training loop and differ in what a ``Task`` says."""

from __future__ import annotations

import copy
from typing import Any, Protocol

import numpy as np

from siren.pictures import Picture
from siren.samples import Points


class Task(Protocol):
    """What the training loop and the report ask of an experiment.

    reference    (height, width, channels) float32 in [-1, 1]: what the result is scored against
    scored       (height, width) bool mask of the pixels that are scored, or None for all
    scored_as    which pixels that is, in words
    points       what is trained on
    held_out     given points that are not trained on, to choose the best epoch by, or None
    pointwise    whether the loss is a mean over points, so that any of them can be taken; else it
                 is one of the grid as a whole, ``residual_loss`` of what is predicted
    prior        one of ``siren.priors``, which is added to the loss, or None
    random       the NumPy generator that the prior draws from, or None
    shown        the pictures of the panel's left side: the inputs and what the network saw
    derivatives  highest order of the network's own derivatives worth a picture: 0, 1 or 2
    """

    reference: np.ndarray
    scored: np.ndarray | None
    scored_as: str
    points: Points
    held_out: Points | None
    pointwise: bool
    prior: Any
    random: np.random.Generator | None
    shown: list[Picture]
    derivatives: int

    def loss(self, network: Any, coordinates: Any, target: Any, engine: Any) -> Any:
        """Loss without prior as a scalar Var, given coordinates and target of points as Vars.

        All of ``points``, or, where the loss is pointwise, any.
        """
        ...

    def predict(self, network: Any, coordinates: Any, engine: Any) -> Any:
        """What a loss of the whole grid looks at, at any points, as a Var; only there."""
        ...

    def residual_loss(self, predicted: Any, target: Any) -> Any:
        """The loss of the whole grid, given what is predicted at all ``points``; only there."""
        ...

    def baselines(self) -> list[tuple[str, np.ndarray]]:
        """Pictures that classical methods make of the same data, by name."""
        ...

    def restore(self, output: np.ndarray, pixels: np.ndarray | None = None) -> np.ndarray:
        """Add to the network's picture what the loss cannot carry; same shape.

        Given numbers of ``pixels`` (n,), ``output`` is (n, channels), and what has to be added is
        estimated from them.
        """
        ...


def without_pictures(task: Task) -> Task:
    """A copy of ``task`` without its pictures, for a process of several that only trains.

    It can be pickled; its points are to be given, and there is no reference.
    """
    copied = copy.copy(task)
    for name, value in vars(task).items():
        if isinstance(value, np.ndarray):
            setattr(copied, name, None)
    copied.points, copied.held_out, copied.shown = task.points.without_values(), None, []
    return copied


def select(picture: np.ndarray, pixels: np.ndarray | None) -> np.ndarray:
    """``picture`` (height, width, ...), or (n, ...) of it given numbers of pixels (n,)."""
    return picture if pixels is None else picture.reshape(-1, *picture.shape[2:])[pixels]


def with_mean_of(output: np.ndarray, reference: np.ndarray, where=None) -> np.ndarray:
    """``output`` moved to the mean of ``reference``, channel by channel; nothing is stretched.

    A gradient or a Laplacian determines a picture up to such a constant. ``where``, a bool mask
    (height, width), says which pixels' mean is meant; None: all. Instead of pictures there may be
    some of their pixels (n, channels).
    """
    where = np.ones(output.shape[:-1], bool) if where is None or not where.any() else where
    shift = reference[where].mean(0, dtype=np.float64) - output[where].mean(0, dtype=np.float64)
    return (output + shift).astype(np.float32)
