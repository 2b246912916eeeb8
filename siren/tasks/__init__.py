"""The four experiments. They share one training loop; a ``Task`` is what differs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from siren.pictures import Picture
from siren.samples import Points


class Task(Protocol):
    """What the training loop and the output need of an experiment.

    reference       (height, width, channels) float32 in [-1, 1]: the result is scored against it
    scored          (height, width) bool mask of the scored pixels, or None for all
    scored_as       what is scored, in words, for metrics.json
    points          the training points and their targets
    held_out        given points that are not trained on and choose the best epoch, or None
    pointwise       whether the loss is a mean over points, which any subset can estimate; if not,
                    it is ``residual_loss`` of what ``predict`` gives on the whole grid
    determines_mean whether the loss of the whole grid determines the mean of the picture; only
                    where ``pointwise`` is false
    prior           one of ``siren.priors``, added to the loss, or None
    random          the NumPy generator that the prior draws from, or None
    panel_pictures  left side of the panel: the inputs, and what the network is trained on
    derivatives     highest order of the network's derivatives that get a picture: 0, 1 or 2
    """

    reference: np.ndarray
    scored: np.ndarray | None
    scored_as: str
    points: Points
    held_out: Points | None
    pointwise: bool
    determines_mean: bool
    prior: Any
    random: np.random.Generator | None
    panel_pictures: list[Picture]
    derivatives: int

    def loss(self, network: Any, coordinates: Any, target: Any, engine: Any) -> Any:
        """The loss without the prior, a scalar Var; coordinates and targets are Vars.

        They are those of all ``points``; of any subset if the loss is pointwise.
        """
        ...

    def predict(self, network: Any, coordinates: Any, engine: Any) -> Any:
        """The network's values or derivatives at any points, as a Var, for ``residual_loss``."""
        ...

    def residual_loss(self, predicted: Any, target: Any) -> Any:
        """The loss of the whole grid, of ``predicted`` at all ``points``; not if pointwise."""
        ...

    def baselines(self) -> list[tuple[str, Callable[[], np.ndarray]]]:
        """(name, function that makes the picture) of each classical method, on the same data."""
        ...

    def restore(self, output: np.ndarray, pixels: np.ndarray | None = None) -> np.ndarray:
        """Add to the network's picture what the loss does not determine; same shape.

        With the indices of some ``pixels`` (n,), ``output`` is (n, channels), and the correction is
        estimated from these pixels.
        """
        ...


def without_pictures(task: Task) -> Task:
    """A copy of ``task`` that can be pickled, for ranks other than 0, which only train.

    It has no pictures and no reference; its points have no values yet.
    """
    copied = copy.copy(task)
    for name, value in vars(task).items():
        if isinstance(value, np.ndarray):
            setattr(copied, name, None)
    copied.points, copied.held_out, copied.panel_pictures = task.points.without_values(), None, []
    return copied


def select(picture: np.ndarray, pixels: np.ndarray | None) -> np.ndarray:
    """``picture`` (height, width, ...) itself, or its ``pixels`` (n,) by index: (n, ...)."""
    return picture if pixels is None else picture.reshape(-1, *picture.shape[2:])[pixels]


def match_mean(output: np.ndarray, reference: np.ndarray, mask=None) -> np.ndarray:
    """``output`` plus a constant per channel, so that it has the mean of ``reference``.

    A gradient or a Laplacian determines a picture up to such a constant. Both are pictures (height,
    width, channels), or some of their pixels (n, channels). The means are over the pixels where the
    bool ``mask`` is true; None, or a mask without any: over all.
    """
    mask = np.ones(output.shape[:-1], bool) if mask is None or not mask.any() else mask
    shift = reference[mask].mean(0, dtype=np.float64) - output[mask].mean(0, dtype=np.float64)
    return (output + shift).astype(np.float32)
