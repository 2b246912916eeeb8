"""Masks: what of a picture is missing, or is to be cloned.

In memory a mask is a bool array (height, width), True where the file is white. People draw masks
in many ways, so that ``read_mask`` also takes the value 1 of 0 and 1, strokes of a color on black,
and shapes that exist only in the alpha channel. What could be meant in two ways is refused.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from siren.images import decoding, fit_mask, resize
from siren.images.opening import ImageError, ImageWarning, open_picture, quoted

#: A pixel of a scaled mask is True if more than this share of it is.
SHARE = 0.1
_COLORED = 48  # of 255: from this difference between its channels, a pixel has a color
_ONE_HUE = 40  # degrees: hues this far from the mean are still the same color


def read_mask(path: str | Path) -> np.ndarray:
    """The mask at ``path``: bool (height, width), upright.

    True is white: more than half of the largest value that the file can hold. Besides, it is

    - the larger one of two gray values, if the smaller one is 0 (told by ``ImageWarning``),
    - whatever has a color, if that is one hue on black,
    - what is opaque, if that is all white or of one hue and the rest is transparent.

    Raises ``ImageError``, with the reason, if it is none of these, if all of it would be
    True or all False, or as ``read_image`` does.
    """
    name = quoted(path)
    with open_picture(path) as (picture, notes):
        samples = decoding.read_samples(picture, path, notes)
        values = samples.color.astype(np.float32)
        visible = np.True_ if samples.alpha is None else samples.alpha > 0.5
    for note in notes:
        warnings.warn(note, stacklevel=2)
    white = samples.white
    if white is None:  # as for a picture, but any other number is taken for one of 255 here
        white = 1 if values.max() <= 1 else 255
    shades = values * np.float32(255 / white)
    if not visible.all():
        mask = _visible(name, shades[visible], visible)
    elif values.shape[2] == 1:
        mask = _of_gray(name, values[..., 0], white)
    elif _is_gray(shades):
        mask = _of_gray(name, np.rint(decoding.luma(shades)), 255)
    else:
        mask = _of_colors(name, shades)
    if mask.all() or not mask.any():
        raise ImageError(
            f"{name} is {'white' if mask.all() else 'black'} everywhere (its values go from "
            f"{values.min():g} to {values.max():g}, of {white:g}); "
            "give one that is white in some places and black in others"
        )
    return mask


def _unclear(fact: str) -> ImageError:
    return ImageError(
        f"{fact}, so that it is unclear what is meant; draw the mask in white on black, without "
        "transparency"
    )


def _warn(sentence: str) -> None:
    warnings.warn(sentence, ImageWarning, stacklevel=3)


def _visible(name: str, seen: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """The mask of a picture that is transparent in places; ``seen`` (n, 1 or 3) is the rest."""
    if not visible.any():
        raise _unclear(f"{name} is transparent everywhere")
    light = seen.max(1) > 127.5
    if not light.all():
        what = "black shapes" if not light.any() else "light, dark and transparent places"
        raise _unclear(f"{name} has {what} on a transparent ground")
    if not (_is_gray(seen) or _has_one_hue(seen)):
        raise _unclear(f"{name} has several colors on a transparent ground")
    return visible


def _of_gray(name: str, values: np.ndarray, white: float) -> np.ndarray:
    levels = np.unique(values)
    if len(levels) == 2 and levels[0] == 0 and levels[1] <= white / 2:
        _warn(
            f"{name} holds nothing but 0 and {levels[1]:g} of {white:g}, "
            f"so {levels[1]:g} is taken for white"
        )
        return values > 0
    labels = len(levels) in (3, 4) and 0 < levels[1] <= white / 16  # 0, 1 and 255, say
    if (levels[-1] <= white / 2 and levels[-1] > 0) or labels:
        described = (
            " and ".join(f"{level:g}" for level in levels)
            if len(levels) <= 4
            else f"{levels[0]:g} to {levels[-1]:g}"
        )
        raise _unclear(
            f"the largest value of {name} is {levels[-1]:g} of {white:g}, and it holds {described}"
        )
    between = ((values > white / 8) & (values < 7 / 8 * white)).mean()
    if between > 0.3:
        _warn(
            f"{between:.0%} of {name} is neither black nor white; what is lighter than half of it "
            "is taken for white"
        )
    return values > white / 2


def _of_colors(name: str, values: np.ndarray) -> np.ndarray:
    """The mask of an opaque picture in color, whose ``values`` are in 0..255."""
    brightness = values.max(-1)
    light = brightness > brightness.max() / 2
    if brightness.min() > 32 or not _has_one_hue(values[light]):
        raise _unclear(f"{name} has several colors, or none of its pixels is black")
    return light


def _is_gray(pixels: np.ndarray) -> bool:
    """Whether pixels (..., 1 or 3) in 0..255 are gray, but for the noise of JPEG."""
    return bool((np.ptp(pixels, -1) < _COLORED).all())


def _has_one_hue(pixels: np.ndarray) -> bool:
    """Whether pixels (n, 3) in 0..255 all have about the same color, and none is white or gray."""
    if (np.ptp(pixels, -1) < _COLORED).any():
        return False
    # Hue is the angle of a pixel around the gray axis.
    red, green, blue = pixels.T
    around = (red - (green + blue) / 2) + 1j * np.sqrt(0.75) * (green - blue)
    around /= abs(around)
    away = np.angle(around / around.mean(), deg=True)
    return bool(abs(around.mean()) > 0.5 and (abs(away) < _ONE_HUE).all())


def scale_mask(mask: np.ndarray, size: tuple[int, int], name: str = "the mask") -> np.ndarray:
    """``mask`` scaled to ``size``: True where more than ``SHARE`` of a pixel is.

    Shapes of which nothing is left are told by ``ImageWarning``, with ``name``.
    """
    if mask.shape == tuple(size):
        return mask
    from scipy import ndimage

    shares = resize(mask.astype(np.float32), size, Image.Resampling.BOX)
    scaled = shares > SHARE + 1e-5
    shapes, count = ndimage.label(mask, np.ones((3, 3)))
    left = np.unique(shapes[mask & fit_mask(scaled, mask.shape)])
    if len(left) < count:
        _warn(
            f"{count - len(left)} of the {count} white shapes of {name} cover no pixel by more "
            f"than {SHARE:.0%} at {size[0]} x {size[1]} pixels and are left out; "
            "a larger picture keeps them"
        )
    return scaled
