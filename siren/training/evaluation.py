"""How good the network is: its values, derivatives and scores, and the loss that chooses its best.

The best parameters of a training are those of the lowest loss, or of the lowest validation loss.
That is the loss of a fixed sample of the held-out points. Without held-out points, it is that of a
fixed sample of all points where the loss of a step is too noisy a criterion: with batches or a
prior at random points. It is then measured at the epochs whose PSNR is measured.
"""

from __future__ import annotations

from collections.abc import Iterator

import jittor as jt
import numpy as np

from siren.metrics import psnr
from siren.samples import FULL_VIEW, evenly_spaced, pixel_coordinates, spacing, strip
from siren.tasks.task import select

POINTS_AT_ONCE = 1 << 16  # bounds the memory of an evaluation
# Points of a fixed sample, used where all points would take too long: in a training by full passes,
# and in one by batches, whose passes are cheaper.
SAMPLE, SAMPLE_OF_BATCHES = 1 << 16, 1 << 14


def evaluate(network, engine, coordinates: np.ndarray, order: int, scale=(1.0, 1.0)):
    """The network's streams (value, gradient, Laplacian up to ``order``) at ``coordinates`` (N, 2).

    Returns a list of float32 NumPy arrays (N, channels), as ``engine.reference.streams``.
    """
    chunks = []
    with jt.no_grad():
        for first in range(0, len(coordinates), POINTS_AT_ONCE):
            points = jt.array(coordinates[first : first + POINTS_AT_ONCE])
            streams = engine.streams(network, points, order, scale)
            chunks.append([stream.numpy() for stream in streams])
    return [np.concatenate(stream) for stream in zip(*chunks)]


def evaluate_strips(
    network, engine, shape, order: int, scale=(1.0, 1.0), crop=FULL_VIEW
) -> Iterator[tuple[slice, list[np.ndarray]]]:
    """Streams on a pixel grid of ``shape`` (height, width), a strip of rows at a time.

    ``crop`` is the part of the picture that the grid covers (see ``samples.strip``).
    Yields (rows, streams), each stream (rows, width, channels) float32.
    """
    height, width = shape
    at_once = max(1, POINTS_AT_ONCE // width)
    for first in range(0, height, at_once):
        last = min(height, first + at_once)
        points = strip(height, width, first, last, crop)
        streams = evaluate(network, engine, points, order, scale)
        yield slice(first, last), [s.reshape((last - first, width, -1)) for s in streams]


def predict_image(network, engine, shape) -> np.ndarray:
    """The network's values on the pixel grid of ``shape`` (height, width).

    Returns float32 (height, width, channels).
    """
    return assemble(shape[0], evaluate_strips(network, engine, shape, 0))[0]


def predict_derivatives(network, engine, shape) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The network's gradient and Laplacian on the pixel grid of ``shape``, in pixel units.

    Returns (along rows, along columns, Laplacian), each (height, width, channels).
    """
    strips = evaluate_strips(network, engine, shape, 2, spacing(*shape))
    _, rows, columns, laplacian = assemble(shape[0], strips)
    return rows, columns, laplacian


def assemble(height: int, strips) -> list[np.ndarray]:
    """The pictures, of so many rows, whose ``strips`` (rows, parts) come one after the other."""
    pictures: list[np.ndarray] = []
    for rows, parts in strips:
        pictures = pictures or [np.empty((height, *p.shape[1:]), p.dtype) for p in parts]
        for picture, part in zip(pictures, parts):
            picture[rows] = part
    return pictures


def score(task, output: np.ndarray) -> float:
    """PSNR in dB of the network's picture (height, width, channels) as ``task`` scores it.

    Values are not clipped to [-1, 1] as they are in a saved picture: a blend of two gradients
    often exceeds that range.
    """
    return psnr(task.restore(output), task.reference, mask=task.scored)


def sample_pixels(task, by_batches: bool = False) -> np.ndarray:
    """Indices (n,) of pixels, spread over all scored ones, for the PSNR during training."""
    sample = SAMPLE_OF_BATCHES if by_batches else SAMPLE
    count = task.reference[..., 0].size
    if task.scored is None:
        return evenly_spaced(count, sample)
    scored = np.flatnonzero(task.scored)
    return scored[evenly_spaced(len(scored), sample)]


def sampled_score(task, network, engine, pixels: np.ndarray) -> float:
    """``score`` on some ``pixels`` (n,) only."""
    points = pixel_coordinates(pixels, task.reference.shape[:2])
    (values,) = evaluate(network, engine, points, order=0)
    return psnr(task.restore(values, pixels), select(task.reference, pixels))


def make_validation(task, engine, batches):
    """A function of the network: the loss that chooses the best epoch, without gradient or prior.

    None if that is the loss of the step itself: that of all points without a prior.
    """
    points = task.held_out
    if points is None and task.pointwise and (batches is not None or task.prior is not None):
        points = task.points
    if points is None:
        return None
    batch = points.gather(evenly_spaced(len(points), SAMPLE_OF_BATCHES))

    def loss(network):
        with jt.no_grad():
            return task.loss(network, batch, engine)

    return loss
