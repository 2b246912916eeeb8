"""Inpaint: the network learns an image from a few random pixels and fills in the rest."""

from __future__ import annotations

import numpy as np

from siren.coordinates import grid
from siren.pictures import Picture


class Inpaint:
    """Pixel mean squared error on ``points`` random pixels of ``image`` (height, width, channels).

    The pixels are drawn without repetition, 1 <= points < height * width, and depend on ``seed``
    alone. The result is scored on the pixels that were *not* given.
    """

    derivatives = 0

    def __init__(self, image: np.ndarray, points: int, seed: int):
        height, width, channels = image.shape
        chosen = np.random.default_rng(seed).choice(height * width, points, replace=False)
        given = np.zeros(height * width, bool)
        given[chosen] = True
        self.given = given.reshape(height, width)
        self.masked = np.where(self.given[..., None], image, np.float32(0))

        self.reference = image
        self.scored = ~self.given
        self.coordinates = grid(height, width)[given]
        self.target = image.reshape(-1, 1, channels)[given]
        share = 100 * points / given.size
        self.shown = [
            Picture("image", image),
            Picture(f"given: {points} pixels ({share:.1f} %)", self.masked),
        ]

    def loss(self, network, coordinates, target, engine):
        """Mean squared error of the given pixels."""
        return engine.squared_error(network, coordinates, target, order=0)

    def restore(self, output: np.ndarray) -> np.ndarray:
        """The values themselves were trained on."""
        return output
