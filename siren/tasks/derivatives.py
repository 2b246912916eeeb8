"""The common part of edit and poisson, which train a network on its derivatives."""

from __future__ import annotations

from siren import losses, operators


class DerivativeTask:
    """A loss of the gradient (``order`` 1) or the Laplacian (2) of the network on a grid.

    With finite differences in the pixel norm this is the error of the pixels against the direct
    solution, up to its mean: identically, since both are linear. ``pixelwise`` is then true: the
    direct solution is the target, and the loss is a mean over single points, which costs a third
    and can be taken in batches.

    shape     (height, width) of the grid
    operator  one of ``operators.OPERATORS``: how the network is differentiated
    norm      one of ``losses.NORMS``: how the residual is measured
    pixels    whether the pixels of some points are supervised too
              (``losses.residual_and_pixel_loss``)
    """

    order: int

    def __init__(self, shape: tuple[int, int], operator: str, norm: str, pixels: bool = False):
        self.operator = operators.make_operator(operator, shape)
        self.norm = losses.make_norm(norm, self.operator, shape)
        self.pixelwise = operator == "fd" and norm == "pixel"
        self.pointwise = self.pixelwise or losses.is_pointwise(self.operator, self.norm)
        self.pixels = pixels and not self.pixelwise
        self.determines_mean = pixels

    def predict(self, network, coordinates, engine):
        """The operator's ``predict``."""
        border = self.norm.border
        return self.operator.predict(
            network, coordinates, self.order, engine, border, values=self.pixels
        )

    def residual_loss(self, predicted, target):
        """The loss for this operator and norm, given what ``predict`` gives at all points."""
        loss = losses.residual_and_pixel_loss if self.pixels else losses.residual_loss
        return loss(predicted, target, self.order, self.operator, self.norm)
