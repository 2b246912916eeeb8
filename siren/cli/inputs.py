"""The pictures that a run reads."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from siren import images
from siren.cli import recipes
from siren.cli.errors import Problem
from siren.text import printable
from siren.training.checkpoint import fingerprint


@dataclass(frozen=True)
class Inputs:
    """The pictures of a run.

    image  (height, width, channels) float32 in [-1, 1]
    other  the second image of edit, of the same shape, or None
    mask   (height, width) bool, or None
    bits   8 or 16: the depth of the inputs, and so of the results
    """

    image: np.ndarray
    other: np.ndarray | None
    mask: np.ndarray | None
    bits: int

    def fingerprint(self) -> str:
        """A hash of all pictures."""
        pictures = (self.image, self.other, self.mask)
        return fingerprint(*(picture for picture in pictures if picture is not None))


@dataclass(frozen=True)
class Origin:
    """What remains of ``Inputs`` after their memory is freed: their hash, and the depth in bits."""

    fingerprint: str
    bits: int


def paths(options: argparse.Namespace) -> dict[str, Path]:
    """The files that a run reads, by the name of their option."""
    if options.task == "render":
        return {"network_path": options.network_path}
    files = {"input_path": options.input_path}
    if options.mask_path is not None:
        files["mask_path"] = options.mask_path
    if options.task == "edit":
        files["ot_image_path"] = options.ot_image_path
    return files


def read_inputs(options: argparse.Namespace) -> Inputs:
    """Read and check all pictures that ``options`` name. Raises Problem.

    Options that depend on the picture's size are set where they are unset.
    """
    image, bits = _read(options, "input_path", options.channels)
    size = image.shape[:2]
    mask = None
    points = size[0] * size[1]
    if options.mask_path is not None:
        mask = _read(options, "mask_path", 1, size)[0][..., 0] > 0
        if mask.all() or not mask.any():
            shade = "white" if mask.all() else "black"
            raise Problem(
                f"--mask_path {printable(str(options.mask_path))} is {shade} everywhere; "
                "give one that is white in some places and black in others"
            )
    elif options.task == "inpaint":
        if options.points is None:
            options.points = recipes.default_points(points)
        if options.points >= points:
            raise Problem(
                f"--points {options.points} leaves none of the {points} pixels to fill in; "
                "give fewer, or a larger --sidelength"
            )
    if options.task == "inpaint":
        given = options.points if mask is None else int((~mask).sum())
        points = given - int(options.hold_out * given)
    recipes.fill_in(options, size, points)
    other = None
    if options.task == "edit":
        other, other_bits = _read(options, "ot_image_path", options.channels, size)
        bits = max(bits, other_bits)
    return Inputs(image, other, mask, bits)


def _read(options, option: str, channels: int, size=None) -> tuple[np.ndarray, int]:
    """(picture, its depth in bits); ``size`` defaults to that of ``--sidelength``."""
    path = getattr(options, option)
    try:
        if size is None:
            size = images.fit_size(*images.image_size(path), options.sidelength, options.aspect)
        return images.read_image(path, channels, size), images.bit_depth(path)
    except images.ImageError as error:
        raise Problem(f"--{option}: {error}") from error


def make_batches(options: argparse.Namespace, count: int):
    """``Batches`` of ``--batch_points`` out of ``count`` points; None: all. Raises Problem."""
    from siren.samples import Batches  # imports Jittor

    if options.batch_points is None:
        return None
    if options.batch_points > count:
        raise Problem(
            f"--batch_points {options.batch_points} is more than the {count} points that are "
            "trained on; leave it out to use all of them"
        )
    return Batches(options.batch_points, options.seed)
