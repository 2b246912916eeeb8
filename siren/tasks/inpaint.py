"""Inpaint: the network learns an image from a few random pixels and fills in the rest."""

from __future__ import annotations

from functools import partial

import numpy as np

from siren import losses, samples, solvers
from siren.diffusion import edge_enhancing_diffusion
from siren.pictures import Picture, checked_image, checked_mask
from siren.samples import Points
from siren.tasks import TASKS
from siren.tasks.task import Task

_FAR = 4.0  # mean distances between given pixels, which random ones never leave


class Inpaint(Task):
    """Pixel mean squared error on ``points`` random pixels of ``image`` (height, width, channels).

    The pixels are drawn without repetition, 1 <= points < height * width, and depend on ``seed``
    alone. The result is scored on the pixels that were *not* given. With a prior that follows the
    picture, pixels far from all that are trained on are trained on too, as edge-enhancing diffusion
    fills them in.

    prior     one of ``siren.priors``, added to the loss, or None
    hold_out  share of the *given* pixels, in [0, 1), that is not trained on, but chooses the best
              epoch
    missing   None, or a bool mask (height, width) of the pixels to fill in, neither all true nor
              all false; ``points`` is then ignored

    The image is float in [-1, 1]; ``pictures`` has the errors for anything else.
    """

    declared = TASKS["inpaint"]
    scored_as = "the pixels not given, against the image"

    def __init__(
        self,
        image: np.ndarray,
        points: int,
        seed: int,
        prior=None,
        hold_out: float = 0.0,
        missing: np.ndarray | None = None,
    ):
        image = checked_image(image)
        height, width, _ = image.shape
        if missing is not None:
            missing = checked_mask(missing, "missing", (height, width))
        random = samples.generator(seed, samples.PIXELS)
        if missing is None:
            chosen = random.choice(height * width, points, replace=False)
        else:
            chosen = random.permutation(np.flatnonzero(~missing))
            points = len(chosen)
        validating, training = np.split(chosen, [int(hold_out * points)])
        given = np.zeros(height * width, bool)
        given[chosen] = True
        self.reference = image
        self.scored = ~given.reshape(height, width)
        self.prior = prior
        held_out = _points(image, validating)
        self.held_out = held_out if len(held_out) else None
        follows_picture = prior is not None and prior.follows_picture
        self.points = (_with_far_points if follows_picture else _points)(image, training)
        share = 100 * points / given.size
        self.panel_pictures = [
            Picture("image", image),
            Picture(f"given: {points} pixels ({share:.1f} %)", self.masked_image),
        ]

    @classmethod
    def make(cls, settings, pictures, prior):
        """With the points, the seed and the held-out share of ``settings``."""
        return cls(
            pictures.image, settings.points, settings.seed, prior, settings.hold_out, pictures.mask
        )

    @property
    def given_mask(self) -> np.ndarray:
        """Mask (height, width) of the given pixels."""
        return ~self.scored

    @property
    def masked_image(self) -> np.ndarray:
        """The given pixels on mid-gray."""
        return np.where(self.given_mask[..., None], self.reference, np.float32(0))

    def loss(self, network, batch, engine):
        """Mean squared error of the training pixels."""
        return losses.pixel_mse(network, batch, engine)

    def baselines(self):
        """Three interpolations of the given pixels, and edge-enhancing diffusion from them."""
        return [
            *(
                (method, partial(solvers.interpolate, self.reference, self.given_mask, method))
                for method in ("linear", "cubic", "thin_plate")
            ),
            ("edge_enhancing", partial(edge_enhancing_diffusion, self.reference, self.given_mask)),
        ]

    def pictures(self, derivatives):
        """The given pixels."""
        return [partial(np.asarray, self.masked_image)]


def _points(image, pixels) -> Points:
    height, width, channels = image.shape
    return Points((height, width), image.reshape(-1, 1, channels)[pixels], pixels)


def _with_far_points(image, pixels) -> Points:
    """``_points``, and those farther than ``_FAR`` from these as diffusion fills them in.

    A prior that continues edges settles what is near a given pixel. In the middle of a wide gap the
    network would be left to itself, and be worse than the diffusion.
    """
    from scipy.ndimage import distance_transform_edt

    given = np.zeros(image.shape[:2], bool)
    given.flat[pixels] = True
    far = distance_transform_edt(~given) > _FAR * np.sqrt(given.size / len(pixels))
    if not far.any():
        return _points(image, pixels)
    filled = edge_enhancing_diffusion(image, given)
    # As a picture of 8 bits has them, so that these points are stored, and computed, as others are.
    filled[far] = np.rint(127.5 * filled[far] + 127.5) / np.float32(127.5) - 1
    return _points(filled, np.concatenate([pixels, np.flatnonzero(far)]))
