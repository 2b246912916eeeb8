"""Fit: the network learns an image from all of its pixels."""

from __future__ import annotations

import numpy as np

from siren.coordinates import grid
from siren.pictures import Picture


class Fit:
    """Pixel mean squared error on every pixel of ``image`` (height, width, channels)."""

    scored = None
    derivatives = 0

    def __init__(self, image: np.ndarray):
        height, width, channels = image.shape
        self.reference = image
        self.coordinates = grid(height, width)
        self.target = image.reshape(-1, 1, channels)
        self.shown = [Picture("input: every pixel", image)]

    def loss(self, network, coordinates, target, engine):
        """Mean squared error of the pixels."""
        return engine.squared_error(network, coordinates, target, order=0)

    def restore(self, output: np.ndarray) -> np.ndarray:
        """A fit carries everything."""
        return output
