"""The pictures that a run reads."""

from __future__ import annotations

import argparse
import contextlib
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from siren import images
from siren.cli.errors import Problem, about
from siren.images import masks
from siren.images.decoding import UnknownWhite
from siren.pictures import translate
from siren.tasks import TASKS
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

    @property
    def extent(self) -> tuple[tuple[int, int], int | None]:
        """((height, width), number of pixels where the mask is false; None without a mask)."""
        return self.image.shape[:2], None if self.mask is None else int((~self.mask).sum())

    def fingerprint(self) -> str:
        """A hash of all pictures."""
        pictures = (self.image, self.other, self.mask)
        return fingerprint(*(picture for picture in pictures if picture is not None))


def paths(options: argparse.Namespace) -> dict[str, Path]:
    """The files that a run reads, by the name of their option."""
    if options.task not in TASKS:
        return {"network_path": options.network_path}
    files = {"input_path": options.input_path}
    if options.mask_path is not None:
        files["mask_path"] = options.mask_path
    if TASKS[options.task].images == 2:
        files["ot_image_path"] = options.ot_image_path
    return files


def read_inputs(options: argparse.Namespace) -> Inputs:
    """Read and check all pictures that ``options`` name. Raises Problem."""
    decoded = _decode(options, "input_path")
    with _blaming("input_path"):
        size = images.fit_size(*decoded.size, options.sidelength, options.aspect)
    bits = decoded.bits
    if TASKS[options.task].images == 2:
        image = decoded.resized(size)
        decoded = _decode(options, "ot_image_path")
        other, mask = _resize_with_mask(options, decoded, size)
        bits = max(bits, decoded.bits)
        if mask is not None and not translate(mask, options.offset, False).any():
            rows, columns = options.offset
            raise Problem(
                f"--offset {rows} {columns} moves all of the region of --mask_path beyond the "
                f"picture of {size[0]} x {size[1]} pixels; give a smaller one"
            )
    else:
        other = None
        image, mask = _resize_with_mask(options, decoded, size)
    return Inputs(image, other, mask, bits)


def _resize_with_mask(options, decoded, size) -> tuple[np.ndarray, np.ndarray | None]:
    """(picture, mask if there is one), at ``size``.

    Both are scaled together. Pixels that the mask leaves in inpainting, or takes in cloning, are
    made of such pixels alone.
    """
    if options.mask_path is None:
        return decoded.resized(size), None
    name = images.quoted(options.mask_path)
    with _blaming("mask_path"):
        drawn = images.fit_mask(masks.read_mask(options.mask_path), decoded.size)
        mask = masks.scale_mask(drawn, size, name)
    if mask.all() or not mask.any():
        raise Problem(
            f"--mask_path {name} is {'white' if mask.all() else 'black'} everywhere at "
            f"{size[0]} x {size[1]} pixels, where a pixel is white if more than "
            f"{masks.SHARE:.0%} of it is; give a larger --sidelength or another mask"
        )
    given, pure = (~drawn, ~mask) if TASKS[options.task].fills else (drawn, mask)
    return decoded.resized(size, given, pure), mask


def _decode(options, option: str) -> images.DecodedImage:
    """The picture that ``option`` names."""
    with _blaming(option):
        decoded = images.decode_image(getattr(options, option), options.channels, options.range)
        for note in decoded.notes:
            warnings.warn(note, stacklevel=1)
    return decoded


@contextlib.contextmanager
def _blaming(option: str):
    """Errors of pictures become Problems that name the ``option``; warnings are printed.

    Each warning is printed once, although several pictures are read twice. Masks have no --range.
    """
    is_mask = option == "mask_path"
    with about(option, images.ImageError), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", images.ImageWarning)
        try:
            yield
        except UnknownWhite as error:
            raise images.ImageError(f"{error.fact}; say so with --range LOW HIGH") from error
    for warning in caught:
        note = warning.message
        sentence = f"--{option}: {note.fact}"
        if note.guess and not is_mask:
            sentence += f": {note.guess}, add --range 0 {note.white}"
        if sentence not in _told:
            _told.add(sentence)
            print(printable(sentence), flush=True)
