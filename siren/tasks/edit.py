"""Edit: the network learns one gradient field made from two images."""

from __future__ import annotations

import numpy as np

from siren import operators, pictures, solvers
from siren.coordinates import grid
from siren.pictures import Picture
from siren.tasks import with_mean_of


class Edit:
    """Gradient mean squared error, in pixel units, against a field blended from two images.

    image, other  (height, width, channels) float32 in [-1, 1], of the same shape
    operator      one of ``operators.OPERATORS``; it decides the gradients of the target too:
                  forward differences for ``fd``, Sobel/8 (the paper's code) otherwise
    blend         ``mixed``: at every pixel the gradient of larger magnitude over all channels
                  (Pérez et al. 2003, eq. 12); ``average``: alpha * image + (1 - alpha) * other
                  (section 4.1 of the paper)
    residual_norm one of ``operators.NORMS``: how the error of the field is measured
    alpha         share of ``image``, in [0, 1]; for ``mixed`` it only sets the mean

    The reference is the least-squares solution for the forward-difference field, by the direct
    solver, with the mean ``alpha * mean(image) + (1 - alpha) * mean(other)``.
    """

    scored = None
    held_out = ()
    random = None
    derivatives = 1

    def __init__(
        self,
        image: np.ndarray,
        other: np.ndarray,
        operator: str,
        blend: str,
        alpha: float,
        residual_norm: str = "operator",
    ):
        height, width, channels = image.shape
        self.operator = operator
        self.norm = operators.ResidualNorm((height, width), residual_norm)

        def field(gradient):
            return blend_fields(gradient(image), gradient(other), blend, alpha)

        composite = solvers.solve_gradient(*field(operators.fd_gradient))
        self.reference = with_mean_of(composite, alpha * image + (1 - alpha) * other)

        gradient = operators.fd_gradient if operator == "fd" else operators.sobel_gradient
        rows, columns = field(gradient)
        self.coordinates = grid(height, width)
        self.target = np.stack(
            [rows.reshape(-1, channels), columns.reshape(-1, channels)], axis=1
        ).astype(np.float32)
        picture, largest = pictures.magnitude(rows, columns)
        self.shown = [
            Picture("image 1", image),
            Picture("image 2", other),
            Picture(f"given: {blend} gradient, white is {largest:.2g}", picture),
            Picture("direct solution", self.reference),
        ]

    def loss(self, network, coordinates, target, engine):
        """Mean squared error of both gradient components."""
        shape = self.reference.shape[:2]
        return operators.squared_error(
            network, coordinates, target, 1, shape, self.operator, engine, self.norm
        )

    def baselines(self):
        """The direct solution, which is also the reference."""
        return [("direct", self.reference)]

    def restore(self, output: np.ndarray) -> np.ndarray:
        """Restore the mean, which a gradient does not carry."""
        return with_mean_of(output, self.reference)


def blend_fields(field, other, blend: str, alpha: float):
    """Blend two gradient fields, each a pair (rows, columns) of (height, width, channels)."""
    if blend == "average":
        return tuple(alpha * a + (1 - alpha) * b for a, b in zip(field, other))
    magnitude, other_magnitude = (
        sum((component**2).sum(axis=2, keepdims=True) for component in pair)
        for pair in (field, other)
    )
    return tuple(np.where(magnitude >= other_magnitude, a, b) for a, b in zip(field, other))
