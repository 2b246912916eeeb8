"""Priors: terms added to a loss, which favor smooth pictures where no pixel is given.

Both take the network's gradient at random points, by forward mode. Every call draws new points,
which depend only on ``seed`` and the number of calls. A call returns the term as a differentiable
scalar Var, added to the loss ``plus`` unless that is None. Of a ``share`` of the points it returns
their part.
"""

from __future__ import annotations

import jittor as jt
import numpy as np

from siren.diffusion import slack_across_edges
from siren.losses import exact_mean
from siren.samples import PRIOR, RandomPoints, generator, spacing

POINTS = 2048  # random points per step


class TotalVariation:
    """``weight`` * mean(|u_row| + |u_column|); derivatives are with respect to coordinates."""

    follows_picture = False

    def __init__(self, weight: float, seed: int):
        self.weight = weight
        self.random = generator(seed, PRIOR)

    def __call__(self, network, engine, share: range = range(POINTS), plus=None):
        """The term, added to ``plus``."""
        points = jt.array(_draw(self.random, share).coordinates()).stop_grad()
        _, rows, columns = engine.streams(network, points, 1)
        term = self.weight * len(share) / POINTS * exact_mean(rows.abs() + columns.abs())
        return term if plus is None else plus + term


class StructureVariation:
    """Total variation that costs little across the edges which the picture shows already.

    The structure tensor J of the network's picture (Förstner and Gülch 1987) has, at every pixel,
    an eigenvector v across the edge there, and the eigenvalue of v is the squared contrast. A
    change along v counts less the larger the contrast is, a change along the edge counts fully, so
    that edges are continued through gaps instead of rounded off (Weickert 1998, edge-enhancing
    diffusion):

        weight * mean(sqrt(grad u^T D grad u)),    D = g v v^T + (I - v v^T),
        g = 1 / sqrt(1 + contrast^2 / CONTRAST^2)

    grad u^T D grad u is the mean over channels. D follows the network: ``update`` computes it from
    a new picture; before the first one, D = I.

    shape   (height, width) of the grid of pixels
    weight  for derivatives with respect to coordinates, as in ``TotalVariation``
    """

    follows_picture = True

    CONTRAST = 0.01  # change between two pixels (white - black is 2) from which on an edge is one
    SIGMA = 1.0  # pixels; of the Gaussian that smooths the picture before it is differentiated
    RHO = 6.0  # pixels; of the Gaussian that averages the products of derivatives
    SMALLEST = 0.03  # variation between two pixels below which the root is rounded off

    def __init__(self, shape: tuple[int, int], weight: float, seed: int):
        self.scale = spacing(*shape)
        self.weight = weight
        self.random = generator(seed, PRIOR)
        self.field = jt.array(np.float32([[[1, 0, 1]]])).stop_grad()  # D of every pixel

    def update(self, picture: np.ndarray) -> None:
        """Follow ``picture`` (height, width, channels), the network's values on the grid."""
        self.field = jt.array(self._diffusion_tensors(picture)).stop_grad()

    def __call__(self, network, engine, share: range = range(POINTS), plus=None):
        """As ``TotalVariation``."""
        points = _draw(self.random, share)
        weight = self.weight * len(share) / POINTS / (self.scale[0] * self.scale[1]) ** 0.5
        smallest = self.SMALLEST
        return engine.variation(network, points, self.field, smallest, weight, self.scale, plus)

    def _diffusion_tensors(self, picture: np.ndarray) -> np.ndarray:
        """D of every pixel: (height, width, 3) float32, the entries (row, row), (row, column) and
        (column, column) of symmetric matrices.
        """
        from scipy import ndimage

        sigmas = 0, self.SIGMA, self.SIGMA
        smooth = ndimage.gaussian_filter(np.moveaxis(picture, 2, 0), sigmas)
        gradient = np.gradient(smooth, axis=(1, 2))
        tensors = slack_across_edges(*gradient, self.CONTRAST, self.RHO)
        return np.stack(tensors, axis=2).astype(np.float32)


def _draw(random: np.random.Generator, share: range) -> RandomPoints:
    """The ``share`` of ``POINTS`` new points."""
    key = random.bit_generator.random_raw() & 0xFFFFFFFF
    return RandomPoints(share.start, len(share), key)
