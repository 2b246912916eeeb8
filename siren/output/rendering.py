"""Pictures of a trained network at any size, a strip of rows at a time."""

from __future__ import annotations

import math
import sys
from fractions import Fraction

import numpy as np
from tqdm import tqdm

from siren import pictures
from siren.images import to_integers, to_uint8
from siren.samples import FULL_VIEW, strip
from siren.training.evaluation import assemble, evaluate, evaluate_strips

SAMPLE = 256  # pixels per side of a small view, which sets the scale of the derivatives' pictures


def view_shape(shape, crop, sidelength: int) -> tuple[int, int]:
    """(height, width) of a view of ``crop`` whose longer side has ``sidelength`` pixels.

    ``shape`` is the (height, width) that the network was trained at. Pixels stay square: the first
    and the last of a side lie on its ends, so that n pixels make n - 1 steps, and the numbers of
    steps are to each other as the sides are in steps of the training. Halves are rounded up.
    """
    row_0, column_0, row_1, column_1 = map(Fraction, crop)
    sides = (row_1 - row_0) * (shape[0] - 1), (column_1 - column_0) * (shape[1] - 1)
    steps = [(sidelength - 1) * side / max(sides) for side in sides]
    return tuple(max(2, math.floor(n + Fraction(1, 2)) + 1) for n in steps)


def render(network, engine, shape, crop=FULL_VIEW, bits: int = 8) -> np.ndarray:
    """The network's picture of ``crop`` at ``shape`` (height, width).

    ``crop`` is (row_0, column_0, row_1, column_1) in [-1, 1]. Returns (height, width, channels),
    uint8 or, for 16 ``bits``, uint16. Apart from the result, memory does not grow with the size.
    """
    return _draw_strips(network, engine, shape, crop, 0, lambda u: [to_integers(u, bits)])[0]


def render_derivatives(network, engine, shape, crop=FULL_VIEW) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of the gradient's magnitude and of the Laplacian, uint8, as in ``render``."""
    points = strip(SAMPLE, SAMPLE, 0, SAMPLE, crop)
    sample = [s.reshape((SAMPLE, SAMPLE, -1)) for s in evaluate(network, engine, points, 2)]
    _, white = pictures.magnitude(*sample[1:3])
    _, strongest = pictures.signed(sample[3])

    def draw(_, rows, columns, laplacian):
        return (
            to_uint8(pictures.magnitude(rows, columns, white)[0]),
            to_uint8(pictures.signed(laplacian, strongest)[0]),
        )

    return tuple(_draw_strips(network, engine, shape, crop, 2, draw))


def _draw_strips(network, engine, shape, crop, order, draw) -> list[np.ndarray]:
    """The pictures that ``draw(*streams)`` makes, strip by strip; shows a bar on a terminal."""

    def strips():
        for rows, streams in evaluate_strips(network, engine, shape, order, crop=crop):
            yield rows, draw(*streams)
            bar.update(rows.stop - rows.start)

    bar = tqdm(total=shape[0], unit="row", dynamic_ncols=True, disable=not sys.stderr.isatty())
    with bar:
        return assemble(shape[0], strips())
