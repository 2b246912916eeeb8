"""The experiments by name: what has to be known of them before Jittor starts.

A task called ``name`` is the class ``name.capitalize()`` in the module ``name`` of this package,
and a line of ``TASKS``. They share one training loop; a ``task.Task`` is what differs.
"""

from __future__ import annotations

import dataclasses
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from siren.engine.workload import Workload


@dataclasses.dataclass(frozen=True)
class Declaration:
    """What a task declares.

    order   of the network's derivatives in the loss: 0 for values, 1 for the gradient, 2 for the
            Laplacian
    arrays  the number of float arrays (pixels, channels) that the picture, targets, scores and
            panels take
    images  the number of pictures that are read
    fills   whether it is trained on some pixels of the picture and fills in the others; a mask then
            shows those, otherwise the part of the second picture that is cloned into the first
    files   names of the pictures of its own (``Task.pictures``), besides those of every training
    """

    order: int = 0
    arrays: int = 20
    images: int = 1
    fills: bool = False
    files: tuple[str, ...] = ()

    def pointwise(self, operator: str, residual_norm: str) -> bool:
        """Whether the loss is a mean over points, which any subset of them can estimate.

        Otherwise it needs the network at all pixels together. The operator is one of
        ``operators.OPERATORS``, the norm one of ``losses.NORMS``.
        """
        # The norm of single points: that of the error itself if differences are taken of pixels.
        return self.order == 0 or residual_norm == ("pixel" if operator == "fd" else "operator")

    def workload(
        self,
        network: Workload,
        operator: str = "forward",
        residual_norm: str = "operator",
        prior: str = "none",
        pixels: bool = False,
    ) -> Workload:
        """The workload of ``network`` with the functions of the engine that a training meets.

        pixels  whether the pixels of some points are supervised besides derivatives
        """
        losses: tuple[int, ...] = ()
        streams: tuple[int, ...] = ()
        pointwise = self.pointwise(operator, residual_norm)
        if self.order == 0:
            losses = (0,)
            streams = (1,) if prior == "tv" else ()
        elif operator == "fd":
            losses, streams = ((0,), ()) if pointwise else ((), (0,))
        elif operator == "forward":
            one_pass = pointwise and not pixels  # see ``losses``
            losses, streams = ((self.order,), ()) if one_pass else ((), (self.order,))
        return dataclasses.replace(
            network,
            losses=losses,
            compact=self.order == 0,
            streams=streams,
            variation=self.order == 0 and prior == "structure",
            pictures=(0, 2) if self.order else (0,),
        )


_DERIVATIVES = ("gradient.png", "laplacian.png")

TASKS = {
    "fit": Declaration(arrays=6),
    "poisson": Declaration(order=2, arrays=16, files=_DERIVATIVES),
    "edit": Declaration(order=1, arrays=20, images=2, files=_DERIVATIVES),
    "inpaint": Declaration(arrays=30, fills=True, files=("masked.png",)),
}


def load(name: str) -> type:
    """The ``task.Task`` called ``name`` in ``TASKS``; imports Jittor."""
    return getattr(import_module(f"siren.tasks.{name}"), name.capitalize())
