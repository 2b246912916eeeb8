"""Training points of any number, held compactly, and the strata that batches are drawn from."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import jittor as jt
import numpy as np

from siren.coordinates import grid
from siren.images import compact


class Points:
    """Pixels of a grid with a target at each, in NumPy.

    shape   (height, width) of the grid
    values  (N, K, channels) float32: K supervised streams at each point. What can be told by 8 or
            16 bits, as the pixels of a picture, is kept so (``images.compact``).
    pixels  (N,) indices of the pixels in row-major order, or None for all of them
    """

    def __init__(self, shape, values: np.ndarray, pixels: np.ndarray | None = None):
        self.shape = shape
        self.values, self.levels = compact(values)
        self.pixels = None if pixels is None else pixels.astype(np.int32)
        self.count = len(values)
        self.kept = range(self.count)

    def __len__(self) -> int:
        """N."""
        return self.count

    def without_values(self) -> Points:
        """A copy that has no values and pixels, until it is given those of a ``share``."""
        points = copy.copy(self)
        pixels = None if self.pixels is None else self.pixels[:0]
        points.set_share(range(0), self.values[:0], pixels)
        return points

    def set_share(self, share: range, values: np.ndarray, pixels: np.ndarray | None) -> None:
        """Have ``values`` and ``pixels``, as they are kept, of a ``share`` of the points alone.

        Points keep their indices, and ``len`` still counts all.
        """
        self.kept, self.values, self.pixels = share, values, pixels

    @property
    def target(self) -> np.ndarray:
        """The values, (N, K, channels) float32, made anew."""
        return self.values if self.levels is None else self.levels[self.values]

    @property
    def coordinates(self) -> np.ndarray:
        """Where the points lie, (N, 2) float32 as ``coordinates.grid`` has them, made anew."""
        whole = grid(*self.shape)
        return whole if self.pixels is None else whole[self.pixels]

    def arrays(self) -> list[np.ndarray]:
        """All that tells these points from others of the same grid."""
        return [array for array in (self.values, self.levels, self.pixels) if array is not None]


class Loaded:
    """``Points`` as Vars, from which coordinates and targets are made where they are wanted.

    A point takes the bytes of its values, and four where ``pixels`` are listed. Only those of
    ``share``, a range of their indices, are taken over; None: all.
    """

    def __init__(self, points: Points, share: range | None = None):
        height, width = points.shape
        share = range(len(points)) if share is None else share
        mine = slice(share.start - points.kept.start, share.stop - points.kept.start)
        self.first = share.start
        self.width = width
        self.rows, self.columns = (
            jt.array(np.linspace(-1, 1, n).astype(np.float32)).stop_grad() for n in (height, width)
        )
        self.values = jt.array(points.values[mine]).stop_grad()
        self.levels = None if points.levels is None else jt.array(points.levels).stop_grad()
        self.pixels = None if points.pixels is None else jt.array(points.pixels[mine]).stop_grad()

    def gather(self, indices: np.ndarray):
        """Coordinates (n, 2) and targets (n, K, channels), float32 Vars, of points (n,)."""
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


def stratified(count: int, chosen: int, where) -> np.ndarray:
    """Indices of ``chosen`` of ``count`` points, one from each of as many equal strata, ascending.

    ``where`` in [0, 1) says where in its stratum a point is, for all strata or for each. Strata
    are count / chosen long, which need not be whole: if ``where`` is uniform, every point is
    expected chosen / count times exactly.
    """
    indices = ((np.arange(chosen) + where) * (count / chosen)).astype(np.int64)
    return np.minimum(indices, count - 1)


@dataclass(frozen=True)
class Batch:
    """A random subset of the points for each step.

    points  how many
    seed    what they depend on, besides the step's number
    """

    points: int
    seed: int

    def indices(self, count: int, step: int) -> np.ndarray:
        """The points of ``count`` that ``step`` takes."""
        random = np.random.default_rng([self.seed, step])
        return stratified(count, self.points, random.random(self.points))
