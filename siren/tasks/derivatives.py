"""What edit and poisson share: a network is trained on its derivatives."""

from __future__ import annotations

from siren import operators


class OfDerivatives:
    """Mean squared error of the gradient (``order`` 1) or the Laplacian (2) on a whole grid.

    shape     (height, width) of the grid
    operator  one of ``operators.OPERATORS``: how the network is differentiated
    norm      one of ``operators.NORMS``: how the error is measured
    """

    def __init__(self, shape: tuple[int, int], order: int, operator: str, norm: str):
        self.shape = shape
        self.order = order
        self.operator = operator
        self.norm = operators.ResidualNorm(shape, norm)
        self.pointwise = operators.pointwise(operator, self.norm)

    def loss(self, network, coordinates, target, engine):
        """As ``operators.squared_error``."""
        return operators.squared_error(
            network,
            coordinates,
            target,
            self.order,
            self.shape,
            self.operator,
            engine,
            self.norm,
        )

    def seen(self, network, coordinates, engine):
        """As ``operators.seen``."""
        return operators.seen(network, coordinates, self.order, self.shape, self.operator, engine)

    def judge(self, seen, target):
        """As ``operators.judge``."""
        return operators.judge(seen, target, self.order, self.shape, self.operator, self.norm)
