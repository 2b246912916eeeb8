"""Fit: the network learns an image from all of its pixels."""

from __future__ import annotations

import numpy as np

from siren import losses
from siren.pictures import Picture, checked_image
from siren.samples import Points
from siren.tasks import TASKS
from siren.tasks.task import Task


class Fit(Task):
    """Pixel mean squared error on every pixel of ``image`` (height, width, channels).

    ``image`` is float in [-1, 1] (``pictures.checked_image`` has the errors for anything else).
    ``prior``, one of ``siren.priors`` or None, is added to the loss; it helps with noisy images.
    """

    declared = TASKS["fit"]
    scored_as = "all pixels against the image"

    def __init__(self, image: np.ndarray, prior=None):
        image = checked_image(image)
        height, width, channels = image.shape
        self.reference = image
        self.prior = prior
        self.points = Points((height, width), image.reshape(-1, 1, channels))
        self.panel_pictures = [Picture("given: every pixel", image)]

    @classmethod
    def make(cls, settings, pictures, prior):
        """Of the image and the prior."""
        return cls(pictures.image, prior)

    def loss(self, network, batch, engine):
        """Mean squared error of the pixels."""
        return losses.pixel_mse(network, batch, engine)
