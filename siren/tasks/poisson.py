"""Poisson: the network learns an image from its Laplacian alone."""

from __future__ import annotations

from functools import partial

import numpy as np

from siren import cosine, losses, operators, solvers
from siren.pictures import Picture, checked_image, laplacian_picture
from siren.samples import Points
from siren.tasks import TASKS
from siren.tasks.task import DerivativeTask


class Poisson(DerivativeTask):
    """Mean squared error of the Laplacian, in pixel units, on every pixel of ``image``.

    ``image`` is (height, width, channels), float in [-1, 1]; for anything else
    ``pictures.checked_image`` has the errors. ``operator``, one of ``operators.OPERATORS``,
    computes the network's Laplacian, and ``residual_norm``, one of ``losses.NORMS``, measures its
    error. The target is the 5-point Laplacian of the image. Section 4.1 of the paper.

    Where the norm of exact derivatives needs the border (``losses.ExactNorm``), the target is the
    exact Laplacian of the image's cosine interpolant, and a slope of zero across the border.
    """

    declared = TASKS["poisson"]
    scored_as = "all pixels against the image, mean restored"

    def __init__(self, image: np.ndarray, operator: str, residual_norm: str = "operator"):
        image = checked_image(image)
        height, width, channels = image.shape
        laplacian = operators.fd_laplacian(image)
        super().__init__((height, width), operator, residual_norm)
        self.reference = image
        target = [solvers.solve_poisson(laplacian) if self.pixelwise else laplacian]
        if self.norm.border:
            target = [0 * image, 0 * image, cosine.laplacian(image)]
        values = np.stack([t.reshape(-1, channels) for t in target], axis=1)
        self.points = Points((height, width), values.astype(np.float32))
        self.panel_pictures = [
            Picture("image", image),
            laplacian_picture(laplacian, "given: its Laplacian"),
        ]

    @classmethod
    def make(cls, settings, pictures, prior):
        """With the operator and the norm of ``settings``."""
        return cls(pictures.image, settings.operator, settings.residual_norm)

    def loss(self, network, batch, engine):
        """Mean squared error of the Laplacian; if ``pixelwise``, against the direct solution."""
        if self.pixelwise:
            return losses.pixel_mse(network, batch, engine)
        return losses.laplacian_mse(network, batch, engine, self.operator, self.norm)

    def baselines(self):
        """The direct solution of the discrete Poisson equation."""
        laplacian = operators.fd_laplacian(self.reference)
        return [("direct", partial(solvers.direct_solution, laplacian, self.reference))]
