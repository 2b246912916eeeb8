"""Priors: terms added to a loss, which favour smooth pictures where no pixel is given."""

from __future__ import annotations

import jittor as jt
import numpy as np

POINTS = 4096  # random points per step: a steady mean for a tenth of a step's cost


class TotalVariation:
    """``weight`` * mean(|u_row| + |u_column|) at random points, by forward mode.

    Derivatives are with respect to coordinates. Every call draws new points, which depend only on
    ``seed`` and the number of calls.
    """

    def __init__(self, weight: float, seed: int):
        self.weight = weight
        self.random = np.random.default_rng(seed)

    def __call__(self, network, engine, share: range = range(POINTS)):
        """The term as a differentiable scalar Var; of a ``share`` of the points, its part."""
        points = self.random.uniform(-1, 1, (POINTS, 2)).astype(np.float32)
        points = points[share.start : share.stop]
        _, rows, columns = engine.streams(network, jt.array(points).stop_grad(), 1)
        return self.weight * len(share) / POINTS * (rows.abs() + columns.abs()).mean()
