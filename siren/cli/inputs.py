"""The pictures that a run reads."""

from __future__ import annotations

import argparse
import contextlib
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from siren import images, masks
from siren.cli import recipes
from siren.cli.errors import Problem
from siren.pictures import translate
from siren.text import printable
from siren.training.checkpoint import fingerprint

_told: set[str] = set()  # what has been printed about the files


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
    with _blaming("input_path"):
        native = images.image_size(options.input_path)
        size = images.fit_size(*native, options.sidelength, options.aspect)
    other = None
    if options.task == "edit":
        image, bits = _read(options, "input_path", size)
        other, mask, other_bits = _read_with_mask(options, "ot_image_path", size)
        bits = max(bits, other_bits)
    else:
        image, mask, bits = _read_with_mask(options, "input_path", size)
    _fill_in(options, size, mask)
    return Inputs(image, other, mask, bits)


def _fill_in(options: argparse.Namespace, size: tuple[int, int], mask) -> None:
    """Set the options that depend on the pictures where they are unset. Raises Problem."""
    points = size[0] * size[1]
    if options.task == "inpaint":
        if mask is None:
            if options.points is None:
                options.points = recipes.default_points(points)
            if options.points >= points:
                raise Problem(
                    f"--points {options.points} leaves none of the {points} pixels to fill in; "
                    "give fewer, or a larger --sidelength"
                )
        given = options.points if mask is None else int((~mask).sum())
        points = given - int(options.hold_out * given)
    elif mask is not None and not translate(mask, tuple(options.offset), False).any():
        rows, columns = options.offset
        raise Problem(
            f"--offset {rows} {columns} moves all of the region of --mask_path beyond the picture "
            f"of {size[0]} x {size[1]} pixels; give a smaller one"
        )
    recipes.fill_in(options, size, points)


def _read_with_mask(options, option: str, size) -> tuple[np.ndarray, np.ndarray | None, int]:
    """(picture, mask if there is one, depth in bits), at ``size``.

    Both are scaled together. Pixels that the mask leaves in inpainting, or takes in cloning, are
    made of such pixels alone.
    """
    if options.mask_path is None:
        picture, bits = _read(options, option, size)
        return picture, None, bits
    name = images.quoted(options.mask_path)
    with _blaming(option):
        native = images.image_size(getattr(options, option))
    with _blaming("mask_path"):
        drawn = masks.fit_mask(masks.read_mask(options.mask_path), native)
        mask = masks.scale_mask(drawn, size, name)
    if mask.all() or not mask.any():
        raise Problem(
            f"--mask_path {name} is {'white' if mask.all() else 'black'} everywhere at "
            f"{size[0]} x {size[1]} pixels, where a pixel is white if more than "
            f"{masks.SHARE:.0%} of it is; give a larger --sidelength or another mask"
        )
    wanted = (drawn, mask) if options.task == "edit" else (~drawn, ~mask)
    picture, bits = _read(options, option, size, *wanted)
    return picture, mask, bits


def _read(options, option: str, size, given=None, pure=None) -> tuple[np.ndarray, int]:
    """(picture at ``size``, its depth in bits); ``given`` and ``pure`` as of ``read_image``."""
    path = getattr(options, option)
    with _blaming(option):
        picture = images.read_image(path, options.channels, size, options.range, given, pure)
        return picture, images.bit_depth(path, options.range)


@contextlib.contextmanager
def _blaming(option: str):
    """Errors of pictures become Problems that name the ``option``; warnings are printed.

    Each warning is printed once, although several pictures are read twice. Masks have no --range.
    """
    is_mask = option == "mask_path"
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", images.ImageWarning)
            yield
    except images.UnknownWhite as error:
        advice = "; save it as a PNG of 8 bits" if is_mask else ""
        raise Problem(f"--{option}: {error.fact if is_mask else error}{advice}") from error
    except images.ImageError as error:
        raise Problem(f"--{option}: {error}") from error
    for warning in caught:
        message = warning.message
        sentence = f"--{option}: {message.fact if is_mask else message}"
        if sentence not in _told:
            _told.add(sentence)
            print(printable(sentence), flush=True)


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
