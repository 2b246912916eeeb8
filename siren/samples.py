"""Training points, stored compactly, and batches of them, drawn from strata."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import jittor as jt
import numpy as np

from siren.coordinates import grid
from siren.images import compact


class Points:
    """Pixels of a grid and the target at each, in NumPy.

    shape   (height, width) of the grid
    values  (N, K, channels) float32 targets: K supervised streams at each point. They are stored in
            8 or 16 bits if that loses nothing (``images.compact``).
    pixels  (N,) indices of the pixels in row-major order, or None for all pixels
    """

    def __init__(self, shape, values: np.ndarray, pixels: np.ndarray | None = None):
        self.shape = shape
        self.values, self.levels = compact(values)
        self.pixels = None if pixels is None else pixels.astype(np.int32)
        self.count = len(values)
        self.stored = range(self.count)  # indices of the points whose values this process has

    def __len__(self) -> int:
        """The number of points, N."""
        return self.count

    def without_values(self) -> Points:
        """A copy without values and pixels; ``set_share`` provides those of a share."""
        points = copy.copy(self)
        pixels = None if self.pixels is None else self.pixels[:0]
        points.set_share(range(0), self.values[:0], pixels)
        return points

    def set_share(self, share: range, values: np.ndarray, pixels: np.ndarray | None) -> None:
        """Store only the points of ``share``: their compact ``values`` and their ``pixels``.

        The points keep their indices, and ``len`` still counts all points.
        """
        self.stored, self.values, self.pixels = share, values, pixels

    @property
    def target(self) -> np.ndarray:
        """The targets (N, K, channels) float32, computed from the compact values."""
        return self.values if self.levels is None else self.levels[self.values]

    @property
    def coordinates(self) -> np.ndarray:
        """The coordinates (N, 2) float32, computed as by ``coordinates.grid``."""
        all_pixels = grid(*self.shape)
        return all_pixels if self.pixels is None else all_pixels[self.pixels]

    def arrays(self) -> list[np.ndarray]:
        """The arrays that identify the points on their grid, to be hashed."""
        return [array for array in (self.values, self.levels, self.pixels) if array is not None]


class DevicePoints:
    """``Points`` as compact Vars; coordinates and targets are computed when they are needed.

    A point takes the bytes of its compact values, and four more if ``pixels`` are listed. ``share``
    is the range of indices to copy; None: all.
    """

    def __init__(self, points: Points, share: range | None = None):
        height, width = points.shape
        share = range(len(points)) if share is None else share
        local = slice(share.start - points.stored.start, share.stop - points.stored.start)
        self.first = share.start
        self.width = width
        self.rows, self.columns = (
            jt.array(np.linspace(-1, 1, n).astype(np.float32)).stop_grad() for n in (height, width)
        )
        self.values = jt.array(points.values[local]).stop_grad()
        self.levels = None if points.levels is None else jt.array(points.levels).stop_grad()
        self.pixels = None if points.pixels is None else jt.array(points.pixels[local]).stop_grad()

    def gather(self, indices: np.ndarray):
        """(coordinates (n, 2), targets (n, K, channels)), float32 Vars, of points by index (n,)."""
        index = jt.array((indices - self.first).astype(np.int32))
        values = self.values[index]
        if self.levels is not None:
            values = self.levels[values.int32()]
        if self.pixels is None:
            pixels = jt.array(indices.astype(np.int32))
        else:
            pixels = self.pixels[index]
        rows, columns = self.rows[pixels // self.width], self.columns[pixels % self.width]
        return jt.stack([rows, columns], dim=1).stop_grad(), values.stop_grad()


def stratified(count: int, size: int, position) -> np.ndarray:
    """Ascending indices of ``size`` of ``count`` points, one from each of ``size`` equal strata.

    ``position`` in [0, 1) is the point's place within its stratum, one number for all strata or an
    array with one for each. Strata have the length count / size, which need not be an integer: with
    uniform positions, every point is drawn size / count times in expectation.
    """
    indices = ((np.arange(size) + position) * (count / size)).astype(np.int64)
    return np.minimum(indices, count - 1)


@dataclass(frozen=True)
class Batch:
    """A random subset of the points for each step.

    points  its size
    seed    determines the subset, together with the number of the step
    """

    points: int
    seed: int

    def indices(self, count: int, step: int) -> np.ndarray:
        """Ascending indices of the points of ``step``, out of ``count``."""
        random = np.random.default_rng([self.seed, step])
        return stratified(count, self.points, random.random(self.points))
