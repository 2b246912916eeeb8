"""Edit: the network learns one gradient field made from two images."""

from __future__ import annotations

from functools import partial

import numpy as np

from siren import cosine, losses, operators, solvers
from siren.pictures import Picture, checked_image, checked_mask, gradient_picture, translate
from siren.samples import Points
from siren.tasks import TASKS
from siren.tasks.task import DerivativeTask, match_mean


class Edit(DerivativeTask):
    """Gradient mean squared error, in pixel units, against a field blended from two images.

    image, other   (height, width, channels) float32 in [-1, 1], of the same shape
    operator       one of ``operators.OPERATORS``. It also determines the gradients of the target:
                   forward differences for ``fd``, Sobel/8 (the paper's code) otherwise
    blend          ``mixed``: the gradient of larger magnitude over all channels (Pérez et al. 2003,
                   eq. 12); ``average``: alpha * image + (1 - alpha) * other (section 4.1 of the
                   paper)
    alpha          share of ``image``, in [0, 1]; for ``mixed`` it only sets the mean
    residual_norm  one of ``losses.NORMS``: how the error of the field is measured
    region         None, or a bool mask (height, width) of the part of ``other`` that is cloned into
                   ``image`` (Poisson image editing, Pérez et al. 2003)
    offset         (rows, columns) by which ``other`` and ``region`` are shifted first

    Without a region, the reference is the direct solver's least-squares solution for the field of
    forward differences, with the mean ``alpha * mean(image) + (1 - alpha) * mean(other)``. With a
    ``losses.ExactNorm``, target and reference are of the exact gradients of the images' cosine
    interpolants.

    With a region, the reference is ``image`` outside, and inside it has the differences that
    ``clone_field`` gives (``solvers.solve_inside``). With exact derivatives the network learns the
    field, and outside of the region the pixels besides.

    ``pictures`` has the errors for arrays that are no images or masks.
    """

    declared = TASKS["edit"]

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
        image = checked_image(image)
        other = checked_image(other, "other", image.shape)
        height, width, channels = image.shape
        if region is not None:
            region = checked_mask(region, "region", (height, width))
        super().__init__((height, width), operator, residual_norm, pixels=region is not None)
        given = "given: the larger gradient" if blend == "mixed" else "given: the average gradient"
        if region is None:
            field, composite = self._blend(image, other, operator, blend, alpha)
            self.reference = match_mean(composite, alpha * image + (1 - alpha) * other)
            self.scored_as = "all pixels against the direct solution, mean restored"
            shown = Picture("image 2", other)
            reference = "direct solution (reference)"
        else:
            other, region = translate(other, offset), translate(region, offset, False)
            field, composite = self._clone(image, other, operator, blend, alpha, region)
            self.reference = composite
            self.scored_as = (
                "all pixels: in the region against the direct solution, outside against image 1"
            )
            cut = np.where(region[..., None], other, np.float32(-1))
            shown = Picture("region of image 2", cut)
            given += " in the region"
            reference = "reference (image 1 outside)"

        targets = [composite] if self.pixelwise else list(field)
        if self.pixels:
            targets += [image, np.broadcast_to(~region[..., None], image.shape)]
        targets = np.stack([t.reshape(-1, channels) for t in targets], axis=1)
        self.points = Points((height, width), targets.astype(np.float32))
        self.panel_pictures = [
            Picture("image 1", image),
            shown,
            gradient_picture(*field, given),
            Picture(reference, self.reference),
        ]

    @classmethod
    def make(cls, settings, pictures, prior):
        """Of both images, and the mask as the region."""
        return cls(
            pictures.image,
            pictures.other,
            settings.operator,
            settings.blend,
            settings.alpha,
            settings.residual_norm,
            pictures.mask,
            tuple(settings.offset),
        )

    def _blend(self, image, other, operator, blend, alpha):
        """(field that is learned, direct solution) for two whole images."""

        def field(gradient):
            return blend_fields(gradient(image), gradient(other), blend, alpha)

        if self.norm.border:
            exact = field(cosine.gradient)
            return exact, cosine.solve_gradient(*exact)
        differences = field(operators.fd_gradient)
        learned = differences if operator == "fd" else field(operators.sobel_gradient)
        return learned, solvers.solve_gradient(*differences)

    def _clone(self, image, other, operator, blend, alpha, region):
        """(field that is learned, direct solution) for a ``region`` of ``other`` in ``image``."""
        from scipy import ndimage

        differences = clone_field(image, other, blend, alpha, region)
        composite = solvers.solve_inside(image, *differences, region)
        if operator == "fd":
            return differences, composite
        gradient = cosine.gradient if self.norm.border else operators.sobel_gradient
        own = gradient(image)
        blended = blend_fields(own, gradient(other), blend, alpha)
        # A gradient at a pixel is made of its neighbors: all of them have to be in the region.
        inside = ndimage.binary_erosion(region, np.ones((3, 3)), border_value=1)[..., None]
        return tuple(np.where(inside, b, o) for b, o in zip(blended, own)), composite

    def loss(self, network, batch, engine):
        """Mean squared error of the gradient; if ``pixelwise``, against the direct solution."""
        if self.pixelwise:
            return losses.pixel_mse(network, batch, engine)
        if self.pixels:
            predicted = self.predict(network, batch.coordinates, engine)
            return batch.weight * self.residual_loss(predicted, batch.target)
        return losses.gradient_mse(network, batch, engine, self.operator, self.norm)

    def baselines(self):
        """The direct solution, which is also the reference."""
        return [("direct", partial(np.asarray, self.reference))]


def clone_field(image, other, blend: str, alpha: float, region):
    """The differences that a ``region`` of ``other``, cloned into ``image``, should have.

    Where both pixels of a difference are in the region it is blended from both images, by itself:
    so mirrored pictures have mirrored differences. Everywhere else it is that of ``image``. Returns
    (along rows, along columns), each of the shape of ``image``, as ``operators.fd_gradient``.
    """
    fields = []
    for axis, (own, theirs) in enumerate(
        zip(operators.fd_gradient(image), operators.fd_gradient(other))
    ):
        (blended,) = blend_fields([own], [theirs], blend, alpha)
        both = region & np.roll(region, -1, axis)  # what is rolled in at the end has no difference
        fields.append(np.where(both[..., None], blended, own))
    return tuple(fields)


def blend_fields(field, other, blend: str, alpha: float):
    """Blend two fields, each some components (height, width, channels), such as a gradient's two.

    ``mixed`` takes, at every pixel, all components of the field whose sum of squares is larger.
    """
    if blend == "average":
        return tuple(alpha * a + (1 - alpha) * b for a, b in zip(field, other))
    magnitude, other_magnitude = (
        sum((component**2).sum(axis=2, keepdims=True) for component in pair)
        for pair in (field, other)
    )
    return tuple(np.where(magnitude >= other_magnitude, a, b) for a, b in zip(field, other))
