"""What all tasks have, and the common part of those that train a network on its derivatives."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from siren import distributed, losses, operators
from siren.images import draw_uint8
from siren.pictures import Picture, magnitude, signed
from siren.samples import Points
from siren.solvers import match_mean
from siren.tasks import Declaration


class Task(ABC):
    """What the training loop and the output need of an experiment.

    declared        its line of ``tasks.TASKS``
    reference       (height, width, channels) float32 in [-1, 1]: the result is scored against it
    points          the training points and their targets
    panel_pictures  left side of the panel: the inputs, and what the network is trained on
    scored          (height, width) bool mask of the scored pixels, or None for all
    scored_as       what is scored, in words, for metrics.json
    held_out        given points that are not trained on and choose the best epoch, or None
    prior           one of ``siren.priors``, added to the loss, or None
    pointwise       whether the loss is a mean over points (``Declaration.pointwise``); if not, it
                    is ``residual_loss(predicted, target)`` of what ``predict`` gives on the grid
    determines_mean whether the loss of the whole grid determines the mean of the picture; only
                    where ``pointwise`` is false
    """

    declared: Declaration
    reference: np.ndarray
    points: Points
    panel_pictures: list[Picture]
    scored: np.ndarray | None = None
    scored_as: str
    held_out: Points | None = None
    prior: Any = None
    pointwise = True
    determines_mean = False

    @classmethod
    @abstractmethod
    def make(cls, settings: Any, pictures: Any, prior: Any) -> Task:
        """The task of a run of main.py, whose options are the attributes of ``settings``.

        pictures  with ``image``, ``other`` and ``mask``, of which the latter two may be None
        """

    @property
    def random(self) -> np.random.Generator | None:
        """The generator that the prior draws from, or None."""
        return self.prior and self.prior.random

    @abstractmethod
    def loss(self, network: Any, batch: Any, engine: Any) -> Any:
        """The loss without the prior, a scalar Var, of a ``samples.Batch``.

        It is of all ``points``; of any of them if the loss is pointwise.
        """

    def baselines(self) -> list[tuple[str, Callable[[], np.ndarray]]]:
        """(name, function that makes the picture) of each classical method, on the same data.

        Functions that can be pickled, here and in ``pictures``, and do not need Jittor can be
        called in another process while this one trains the next picture.
        """
        return []

    def restore(self, output: np.ndarray, pixels: np.ndarray | None = None) -> np.ndarray:
        """Add to the network's picture what the loss does not determine; same shape.

        With the indices of some ``pixels`` (n,), ``output`` is (n, channels), and the correction is
        estimated from these pixels. By default the loss determines every value.
        """
        return output

    def pictures(self, derivatives: Callable[[], Any]) -> list[Callable[[], np.ndarray]]:
        """Functions that make its own pictures, for ``images.encode_png``, by ``declared.files``.

        derivatives  gives those of the network (``evaluation.predict_derivatives``)
        """
        return []


class DerivativeTask(Task):
    """A loss of the gradient (``order`` 1) or the Laplacian (2) of the network on a grid.

    With finite differences in the pixel norm this is, up to its mean, the error of the pixels
    against the direct solution, since both are linear. ``pixelwise`` is then true: the direct
    solution, of mean 0, is the target, and the loss is a mean over single points, which costs a
    third and can be taken in batches; ``norm`` is not used.

    shape     (height, width) of the grid
    operator  one of ``operators.OPERATORS``: how the network is differentiated
    norm      one of ``losses.NORMS``: how the residual is measured
    pixels    whether the pixels of some points are supervised too
              (``losses.residual_and_pixel_loss``)
    """

    def __init__(self, shape: tuple[int, int], operator: str, norm: str, pixels: bool = False):
        self.operator = operators.make_operator(operator, shape)
        self.order = self.declared.order
        self.pointwise = self.declared.pointwise(operator, norm)
        self.pixelwise = self.pointwise and self.operator.on_grid
        unused = "operator"  # which takes no memory
        self.norm = losses.make_norm(unused if self.pixelwise else norm, self.operator, shape)
        self.pixels = pixels and not self.pixelwise
        self.determines_mean = pixels

    def predict(self, network, coordinates, engine):
        """The operator's ``predict``."""
        border = self.norm.border
        return self.operator.predict(
            network, coordinates, self.order, engine, border, values=self.pixels
        )

    def residual_loss(self, predicted, target):
        """The loss for this operator and norm, given what ``predict`` gives at all points."""
        loss = losses.residual_and_pixel_loss if self.pixels else losses.residual_loss
        return loss(predicted, target, self.order, self.operator, self.norm)

    def restore(self, output, pixels=None):
        """Restore the mean, which derivatives do not determine; pixels that are supervised do."""
        if self.determines_mean:
            return output
        return match_mean(output, select(self.reference, pixels))

    def pictures(self, derivatives):
        """The gradient's magnitude, and the Laplacian, of 8 bits."""
        rows, columns, laplacian = derivatives()
        return [
            partial(draw_uint8, magnitude, rows, columns),
            partial(draw_uint8, signed, laplacian),
        ]


def select(picture: np.ndarray, pixels: np.ndarray | None) -> np.ndarray:
    """``picture`` (height, width, ...) itself, or its ``pixels`` (n,) by index: (n, ...)."""
    return picture if pixels is None else picture.reshape(-1, *picture.shape[2:])[pixels]


def scatter(task: Task | None) -> Task:
    """Rank 0 gets its ``task`` back; the others get a copy with their share of its points.

    The copy has no pictures, since other ranks only train. What they pass is ignored.
    """
    if distributed.world_size() == 1:
        return task
    root = distributed.rank() == 0
    copied = copy.copy(task)
    if root:
        arrays = [name for name, value in vars(task).items() if isinstance(value, np.ndarray)]
        vars(copied).update(dict.fromkeys(arrays))
        copied.points, copied.held_out = task.points.without_values(), None
        copied.panel_pictures = []
    copied = distributed.broadcast_object(copied)
    points = task.points if root else copied.points
    values = distributed.scatter(points.values)
    pixels = None if points.pixels is None else distributed.scatter(points.pixels)
    if root:
        return task
    points.set_share(distributed.share(len(points)), values, pixels)
    channels = values.shape[2]
    copied.reference = np.broadcast_to(np.float32(-1), (*points.shape, channels))  # for its shape
    return copied
