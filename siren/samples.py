"""Where points lie: the grid of pixels in [-1, 1]; training points, batches and random draws."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import jittor as jt
import numpy as np

FULL_VIEW = (-1.0, -1.0, 1.0, 1.0)  # the crop that is the whole picture


def grid(height: int, width: int) -> np.ndarray:
    """Coordinates of all pixels of a ``height`` x ``width`` image.

    Returns float32 of shape (height * width, 2): (row, column) in [-1, 1], both ends included,
    pixels in row-major order.
    """
    return strip(height, width, 0, height)


def strip(height: int, width: int, first: int, last: int, crop=FULL_VIEW) -> np.ndarray:
    """Coordinates of rows ``first`` to ``last`` - 1 of a ``height`` x ``width`` view of ``crop``.

    ``crop`` is (row_0, column_0, row_1, column_1) in [-1, 1]; its corners are the view's corner
    pixels. Returns float32 ((last - first) * width, 2) in row-major order, as ``grid``.
    """
    row_0, column_0, row_1, column_1 = crop
    rows, columns = np.meshgrid(
        np.linspace(row_0, row_1, height)[first:last],
        np.linspace(column_0, column_1, width),
        indexing="ij",
    )
    return np.stack([rows.ravel(), columns.ravel()], axis=1).astype(np.float32)


def pixel_coordinates(pixels: np.ndarray, shape) -> np.ndarray:
    """The coordinates (n, 2) float32 of ``pixels`` (n,) of a grid, as ``grid`` has them.

    Pixels are indices in row-major order; ``shape`` is (height, width).
    """
    axes = [np.linspace(-1, 1, n) for n in shape]
    rows, columns = np.divmod(pixels, shape[1])
    return np.stack([axes[0][rows], axes[1][columns]], axis=1).astype(np.float32)


def spacing(height: int, width: int) -> tuple[float, float]:
    """Distance between neighboring pixels along (rows, columns), in coordinates.

    A derivative with respect to coordinates times the spacing is a derivative *in pixel units*.
    ``height`` and ``width`` must be at least 2.
    """
    return 2 / (height - 1), 2 / (width - 1)


class Points:
    """Pixels of a grid and the target at each, in NumPy.

    shape   (height, width) of the grid
    values  (N, K, channels) float32 targets: K supervised streams at each point. They are stored in
            8 or 16 bits if that loses nothing (``compact``).
    pixels  (N,) indices of the pixels in row-major order, or None for all pixels
    """

    def __init__(self, shape, values: np.ndarray, pixels: np.ndarray | None = None):
        self.shape = shape
        self.values, self.levels = compact(values)
        self.pixels = None if pixels is None else pixels.astype(np.int32)
        self.count = len(values)
        self.stored = range(self.count)  # indices of the points whose values this process has

    def __len__(self) -> int:
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
        """The coordinates (N, 2) float32, computed as by ``grid``."""
        if self.pixels is None:
            return grid(*self.shape)
        return pixel_coordinates(self.pixels, self.shape)

    def gather(self, indices: np.ndarray) -> Batch:
        """The points with these indices (n,), computed on the host."""
        local = indices - self.stored.start
        pixels = indices if self.pixels is None else self.pixels[local]
        target = self.values[local] if self.levels is None else self.levels[self.values[local]]
        arrays = pixel_coordinates(pixels, self.shape), target
        return Batch(*(jt.array(array).stop_grad() for array in arrays))

    def arrays(self) -> list[np.ndarray]:
        """The arrays that identify the points on their grid, to be hashed."""
        return [array for array in (self.values, self.levels, self.pixels) if array is not None]


def compact(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """float32 ``values`` in 8 or 16 bits if that loses nothing: (codes, levels).

    ``levels[codes]`` equals ``values``, bit for bit. The codes are uint8 for the pixels of an 8-bit
    picture from ``read_image``, and uint16 for those of a 16-bit one. For anything else they are
    the values themselves, and ``levels`` is None.
    """
    for kind, white in ((np.uint8, 255), (np.uint16, 65535)):
        levels = (np.arange(white + 1) * (255 / white)).astype(np.float32)
        levels /= np.float32(127.5)
        levels -= 1
        codes = np.empty(values.size, kind)
        flat = values.reshape(-1)
        for first in range(0, values.size, 1 << 20):  # in blocks: the picture may be large
            block = flat[first : first + (1 << 20)]
            block_codes = np.rint((np.clip(block, -1, 1) + 1) * np.float32(white / 2)).astype(kind)
            if (levels[block_codes] != block).any():
                break
            codes[first : first + len(block)] = block_codes
        else:
            return codes.reshape(values.shape), levels
    return values, None


class Batch(NamedTuple):
    """The points that a loss is computed at, as Vars.

    coordinates  (n, 2) float32
    target       (n, K, channels) float32
    weight       what the loss is multiplied by: how much of a step's points these are, if others
                 are in other batches
    """

    coordinates: jt.Var
    target: jt.Var
    weight: float = 1.0


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
        self.grid_shape = points.shape
        self.shape = jt.array(np.int32(points.shape)).stop_grad()
        axes = [np.linspace(-1, 1, n).astype(np.float32) for n in (height, width)]
        self.axes = jt.array(np.concatenate(axes)).stop_grad()
        self.target_shape = points.values.shape[1:]
        self.values = jt.array(points.values[local].reshape(-1)).stop_grad()
        self.levels = None if points.levels is None else jt.array(points.levels).stop_grad()
        self.pixels = None if points.pixels is None else jt.array(points.pixels[local]).stop_grad()
        jt.sync([self.shape])  # Jittor would compile a small fresh array into each kernel

    def gather(self, indices: np.ndarray) -> Batch:
        """The points with these indices (n,)."""
        n, per_point = len(indices), int(np.prod(self.target_shape))
        local = jt.array((indices - self.first).astype(np.int32))
        if self.pixels is not None:
            pixels = self.pixels.reindex((n,), ["@e0(i0)"], extras=[local])
        elif self.first == 0:
            pixels = local
        else:
            pixels = jt.array(indices.astype(np.int32))
        # A kernel each, over one flat index: four times as fast as getitem and arithmetic.
        pixel, width = "@e0(i0/2)", "@e1(1)"
        axis = f"i0%2 == 0 ? {pixel}/{width} : @e1(0) + {pixel}%{width}"
        coordinates = self.axes.reindex((2 * n,), [axis], extras=[pixels, self.shape])
        value = f"@e0(i0/{per_point})*{per_point} + i0%{per_point}"
        if self.levels is None:
            target = self.values.reindex((n * per_point,), [value], extras=[local])
        else:
            value = f"@e1({value})"
            target = self.levels.reindex((n * per_point,), [value], extras=[local, self.values])
        target = target.reshape((n, *self.target_shape))
        return Batch(coordinates.reshape((n, 2)).stop_grad(), target.stop_grad())


def evenly_spaced(count: int, most: int) -> np.ndarray:
    """Ascending indices of ``count`` points, of at most ``most`` of them: the middles of strata."""
    size = min(count, most)
    return ((np.arange(size) + 0.5) * (count / size)).astype(np.int64)


def steps_per_pass(count: int, batches: Batches | None) -> int:
    """The number of steps in a pass over ``count`` points; without batches it is one step."""
    return 1 if batches is None else batches.steps(count)


@dataclass(frozen=True)
class Selection:
    """Ascending indices of points, one of each ``steps`` consecutive ones, without a list of them.

    Its i-th stratum, of the points from ``steps * i`` on, has the index

        steps * i + (floor(steps * hash(i, key)) + place) mod steps

    with a hash in [0, 1) of 32 bits, which engines compute on their device. Selections that differ
    in ``place`` alone have no point in common, and all ``steps`` of them have every point.

    first  the first stratum
    count  the number of strata, which is the number of points
    """

    first: int
    count: int
    steps: int = 1
    key: int = 0
    place: int = 0

    def __len__(self) -> int:
        return self.count

    def indices(self) -> np.ndarray:
        """The indices (count,), int64."""
        return self._index(np.arange(self.first, self.first + self.count))

    def within(self, share: range) -> Selection:
        """The points whose indices are in ``share``."""
        last = self.first + self.count
        if share.start <= self.steps * self.first and self.steps * last <= share.stop:
            return self
        begin, end = (
            min(max(self._first_from(index), self.first), last)
            for index in (share.start, share.stop)
        )
        return self._cut(begin, end - begin)

    def strips(self, size: int) -> Iterator[Selection]:
        """Cut it into selections of at most ``size`` points."""
        for begin in range(0, self.count, size):
            yield self._cut(self.first + begin, min(size, self.count - begin))

    def _cut(self, first: int, count: int) -> Selection:
        return Selection(first, count, self.steps, self.key, self.place)

    def _index(self, strata):
        """The indices of strata: an int, or an array of int64."""
        if self.steps == 1:
            return strata
        offsets = (_hash(strata, self.key) * self.steps >> 32) + self.place
        return self.steps * strata + offsets - self.steps * (offsets >= self.steps)

    def _first_from(self, index: int) -> int:
        """The first stratum whose index is at least ``index``."""
        stratum, rest = divmod(index, self.steps)
        return stratum + (rest > 0 and self._index(stratum) < index)


@dataclass(frozen=True)
class RandomPoints:
    """Uniform random points in [-1, 1]^2, without a list of them; they depend on ``key`` alone.

    first  the number of the first point
    count  how many there are
    """

    first: int
    count: int
    key: int

    def coordinates(self) -> np.ndarray:
        """The coordinates (count, 2), float32."""
        numbers = np.arange(2 * self.first, 2 * (self.first + self.count))
        bits = (_hash(numbers, self.key) >> 8).astype(np.float32)
        return (bits / np.float32(1 << 23) - np.float32(1)).reshape(-1, 2)


def _hash(number, key: int):
    """32 random bits for ``number``, an int or an array of int64: Wellons's "lowbias32"."""
    x = number * 0x9E3779B9 + key & 0xFFFFFFFF
    x = (x ^ x >> 16) * 0x7FEB352D & 0xFFFFFFFF
    x = (x ^ x >> 15) * 0x846CA68B & 0xFFFFFFFF
    return x ^ x >> 16


@dataclass(frozen=True)
class Batches:
    """Cuts the points into random batches, anew for each pass: a pass takes every point once.

    Each batch takes one of any ``steps`` consecutive points, ``steps`` being the number of batches
    in a pass, so that all of them are spread evenly over the picture. Which batch takes which of
    these points is random, and determined by the seed and the number of the pass.

    points  the largest size of a batch
    seed    as above
    """

    points: int
    seed: int

    def steps(self, count: int) -> int:
        """The number of batches in a pass over ``count`` points."""
        return -(-count // self.points)

    def select(self, count: int, step: int) -> Selection:
        """The points of ``step``, counted over all passes, among ``count``."""
        steps = self.steps(count)
        number, batch = divmod(step, steps)
        key, places = _draw_pass(self.seed, number, steps)
        selection = Selection(0, -(-count // steps), steps, key, places[batch])
        return selection.within(range(count))


PIXELS, WEIGHTS, PRIOR = (), (1,), (2,)  # purposes: given pixels of inpaint, the first weights, ...


def generator(seed: int, purpose: tuple[int, ...]) -> np.random.Generator:
    """A PCG64 generator for ``purpose``, one of those above; ``seed`` is at least 0.

    NumPy's ``SeedSequence`` spreads a seed over the whole state of a generator, so that neighboring
    seeds have nothing in common. What is drawn depends on the seed and the purpose alone: not on
    the device, the number of processes, or anybody's global generator.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=purpose))


@functools.lru_cache(maxsize=1)
def _draw_pass(seed: int, number: int, steps: int) -> tuple[int, list[int]]:
    """The key of the pass ``number``, and the place of each of its batches.

    They come in random order: consecutive batches at neighboring points would be too much alike.
    """
    key = _hash(number, _hash(seed & 0xFFFFFFFF, 0))
    order_key = _hash(key, 1)
    return key, sorted(range(steps), key=lambda place: _hash(place, order_key))
