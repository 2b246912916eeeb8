"""Edit: the network learns one gradient field made from two images."""

from __future__ import annotations

import numpy as np

from siren import cosine, losses, operators, solvers
from siren.pictures import Picture, gradient_picture
from siren.samples import Points
from siren.tasks import match_mean, select
from siren.tasks.derivatives import DerivativeTask


class Edit(DerivativeTask):
    """Gradient mean squared error, in pixel units, against a field blended from two images.

    image, other   (height, width, channels) float32 in [-1, 1], of the same shape
    operator       one of ``operators.OPERATORS``. It also determines the gradients of the target:
                   forward differences for ``fd``, Sobel/8 (the paper's code) otherwise
    blend          ``mixed``: at every pixel the gradient of larger magnitude over all channels
                   (Pérez et al. 2003, eq. 12); ``average``: alpha * image + (1 - alpha) * other
                   (section 4.1 of the paper)
    alpha          share of ``image``, in [0, 1]; for ``mixed`` it only sets the mean
    residual_norm  one of ``losses.NORMS``: how the error of the field is measured
    region         None, or a bool mask (height, width) of the part of ``other`` that is cloned into
                   ``image``; outside of it the field is that of ``image`` alone
    offset         (rows, columns) by which ``other`` and ``region`` are shifted first

    The reference is the direct solver's least-squares solution for the forward-difference field.
    Its mean is ``alpha * mean(image) + (1 - alpha) * mean(other)``; with a region, it has the mean
    of ``image`` outside the region. With a ``losses.ExactNorm``, target and reference are of the
    exact gradients of the images' cosine interpolants.
    """

    scored = None
    scored_as = "all pixels against the direct solution, mean restored"
    held_out = None
    prior = random = None
    derivatives = order = 1

    def __init__(
        self,
        image: np.ndarray,
        other: np.ndarray,
        operator: str,
        blend: str,
        alpha: float,
        residual_norm: str = "operator",
        region: np.ndarray | None = None,
        offset: tuple[int, int] = (0, 0),
    ):
        height, width, channels = image.shape
        mean = alpha * image + (1 - alpha) * other
        if region is not None:
            other, region = translate(other, offset), translate(region, offset, False)
            mean = image
        self.outside = None if region is None else ~region
        super().__init__((height, width), operator, residual_norm)

        def field(gradient):
            own = gradient(image)
            blended = blend_fields(own, gradient(other), blend, alpha)
            if region is None:
                return blended
            inside = region[..., None]
            return tuple(np.where(inside, b, o) for b, o in zip(blended, own))

        gradient = operators.fd_gradient if operator == "fd" else operators.sobel_gradient
        if self.norm.border:
            rows, columns = field(cosine.gradient)
            composite = cosine.solve_gradient(rows, columns)
        else:
            rows, columns = field(gradient)
            composite = solvers.solve_gradient(*field(operators.fd_gradient))
        self.reference = match_mean(composite, mean, self.outside)
        target = [composite] if self.pixelwise else [rows, columns]
        target = np.stack([t.reshape(-1, channels) for t in target], axis=1)
        self.points = Points((height, width), target.astype(np.float32))
        given = "given: the larger gradient" if blend == "mixed" else "given: the average gradient"
        self.panel_pictures = [
            Picture("image 1", image),
            Picture("image 2", other)
            if region is None
            else Picture("region of image 2", np.where(region[..., None], other, np.float32(-1))),
            gradient_picture(rows, columns, given if region is None else f"{given} in the region"),
            Picture("direct solution (reference)", self.reference),
        ]

    def loss(self, network, batch, engine):
        """Mean squared error of the gradient; of the pixels if that is the same."""
        if self.pixelwise:
            return losses.pixel_mse(network, batch, engine)
        return losses.gradient_mse(network, batch, engine, self.operator, self.norm)

    def baselines(self):
        """The direct solution, which is also the reference."""
        return [("direct", self.reference)]

    def restore(self, output: np.ndarray, pixels=None) -> np.ndarray:
        """Restore the mean, which a gradient does not determine."""
        outside = None if self.outside is None else select(self.outside, pixels)
        return match_mean(output, select(self.reference, pixels), outside)


def translate(array: np.ndarray, offset: tuple[int, int], fill=None) -> np.ndarray:
    """``array`` (height, width, ...) translated by (rows, columns).

    Pixels from outside are ``fill``; None: copies of the nearest pixel.
    """
    height, width = array.shape[:2]
    rows, columns = (np.arange(n) - by for n, by in zip((height, width), offset))
    result = array[np.clip(rows, 0, height - 1)[:, None], np.clip(columns, 0, width - 1)]
    if fill is not None:
        inside = (rows == np.clip(rows, 0, height - 1))[:, None] & (
            columns == np.clip(columns, 0, width - 1)
        )
        result = np.where(inside, result, fill)
    return result


def blend_fields(field, other, blend: str, alpha: float):
    """Blend two gradient fields, each a pair (rows, columns) of (height, width, channels)."""
    if blend == "average":
        return tuple(alpha * a + (1 - alpha) * b for a, b in zip(field, other))
    magnitude, other_magnitude = (
        sum((component**2).sum(axis=2, keepdims=True) for component in pair)
        for pair in (field, other)
    )
    return tuple(np.where(magnitude >= other_magnitude, a, b) for a, b in zip(field, other))
