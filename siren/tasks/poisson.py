"""Poisson: the network learns an image from nothing but its Laplacian."""

from __future__ import annotations

import numpy as np

from siren import operators, pictures
from siren.coordinates import grid
from siren.pictures import Picture
from siren.tasks import with_mean_of


class Poisson:
    """Laplacian mean squared error, in pixel units, on every pixel of ``image`` (height, width, C).

    ``operator``, one of ``operators.OPERATORS``, computes the network's Laplacian. The target is
    the 5-point Laplacian of the image. Section 4.1 of the paper.
    """

    scored = None
    derivatives = 2

    def __init__(self, image: np.ndarray, operator: str):
        height, width, channels = image.shape
        laplacian = operators.fd_laplacian(image)
        self.operator = operator
        self.reference = image
        self.coordinates = grid(height, width)
        self.target = laplacian.reshape(-1, 1, channels)
        picture, largest = pictures.signed(laplacian)
        self.shown = [
            Picture("image", image),
            Picture(f"given: its Laplacian, white is {largest:.2g}", picture),
        ]

    def loss(self, network, coordinates, target, engine):
        """Mean squared error of the Laplacian."""
        shape = self.reference.shape[:2]
        return operators.squared_error(
            network, coordinates, target, 2, shape, self.operator, engine
        )

    def restore(self, output: np.ndarray) -> np.ndarray:
        """Restore the mean, which a Laplacian does not carry."""
        return with_mean_of(output, self.reference)
