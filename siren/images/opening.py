"""Opening a picture file at the page that is the picture, and what errors and warnings say.

TIFFs come in more kinds than Pillow reads exactly. A list says which are read.
"""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from siren.files import open_regular
from siren.text import printable

#: Larger pictures are refused after reading the header, before their pixels take memory.
MAX_PIXELS = 2**28

# Listed because Pillow would otherwise also try formats that start other programs (EPS).
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
_READABLE = "PNG, JPEG, WebP, BMP, TIFF, GIF or PPM"
_ANIMATED = ("GIF", "WEBP", "PNG")

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the first bytes of TIFF and BigTIFF
# Tags of TIFF.
_NEW_KIND, _OLD_KIND, _WIDTH, _HEIGHT = 254, 255, 256, 257
_BITS, _COMPRESSION, _COLOR, _SAMPLES, _PLANES, _NUMBERS = 258, 259, 262, 277, 284, 339
_COLOR_MAP, _EXTRA, _DEPTH = 320, 338, 32997
# Their values.
_BLACK_IS_ZERO, _RGB, _PALETTE, _YCBCR, _CIELAB = 1, 2, 3, 6, 8
_UNSIGNED, _FLOATING = 1, 3
_MULTIPLIED = 1
_JPEG = (6, 7)
_COMPRESSIONS = (  # that are read
    *(1, 2, 3, 4, 5, *_JPEG, 8, 32946),  # none, CCITT (three kinds), LZW, JPEG, Deflate (two)
    *(32773, 34925, 50000, 50001),  # PackBits, LZMA, Zstandard and WebP
)


class ImageError(ValueError):
    """A picture cannot be used; the message is one sentence that says why."""


class ImageWarning(UserWarning):
    """What of a file is not used, or may not be meant as it is read; one sentence.

    fact   what is so
    guess  what else may be meant, if the range from 0 to ``white`` is; "" for nothing
    """

    def __init__(self, fact: str, guess: str = "", white: str = ""):
        super().__init__(f"{fact}: {guess}, give range=(0, {white})" if guess else fact)
        self.fact, self.guess, self.white = fact, guess, white


def quoted(path: str | Path) -> str:
    """``path`` in quotes, as one printable line, whatever the name is."""
    return repr(str(path))


@contextmanager
def open_picture(path: str | Path) -> Iterator[tuple[Image.Image, list[ImageWarning]]]:
    """Open the file at ``path`` at the page that is the picture, and check the header.

    Yields (picture, notes about pages that are left out). That page is the first one of a TIFF, but
    not a thumbnail. Errors in the context become ImageErrors.
    """
    name, magic = quoted(path), b""
    if os.path.isdir(path):
        raise ImageError(f"{name} is a folder; name a picture in it")
    try:
        with _quiet_pillow(), open_regular(path) as file:
            magic = file.read(4)
            if not magic:
                raise ImageError(f"{name} is empty")
            with Image.open(file, "r", _FORMATS) as picture:
                notes = []
                if picture.format == "TIFF":
                    notes = _turn_to_page(picture, path, name)
                    if not _is_exact(picture):
                        raise _unreadable_tiff(name)
                yield picture, notes
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        if magic in _TIFF:
            raise _unreadable_tiff(name) from error
        raise ImageError(f"{name} is not a {_READABLE} picture, or is damaged") from error
    except Exception as error:  # on damaged files Pillow raises nearly anything
        raise ImageError(f"{name} {_in_words(error)}") from error


def _in_words(error: Exception) -> str:
    """What is wrong with a picture, to follow its name."""
    if isinstance(error, FileNotFoundError):
        return "does not exist"
    if isinstance(error, PermissionError):
        return "may not be read; change its permissions or those of its folder"
    if isinstance(error, Image.DecompressionBombError):
        return f"has more than {MAX_PIXELS} pixels; make it smaller"
    if isinstance(error, MemoryError):
        return "does not fit into memory; make it smaller"
    if isinstance(error, OSError) and error.strerror:  # from the system, not from Pillow
        return f"cannot be read: {error.strerror.lower()}; name another file"
    reason = printable(" ".join(str(error).split())[:100]) or type(error).__name__
    return (
        f"cannot be read ({reason}); it may be damaged, or need what this Pillow was built "
        "without: save it anew as a PNG"
    )


def frames_left_out(picture: Image.Image, path: str | Path) -> list[ImageWarning]:
    """A note if ``picture``, open at ``path``, is an animation. Counting discards its pixels."""
    if picture.format not in _ANIMATED:
        return []
    frames = 1
    with suppress(Exception):  # of damage in later frames; the first may be intact even so
        frames = getattr(picture, "n_frames", 1)
    if frames == 1:
        return []
    return [ImageWarning(f"{quoted(path)} has {frames} frames, of which only the first is used")]


# ---- TIFF --------------------------------------------------------------------------------------


def _turn_to_page(picture: Image.Image, path: str | Path, name: str) -> list[ImageWarning]:
    """Turn to the first full page of a TIFF. Raises ImageError if another one may be meant."""
    sizes = _full_pages(path)
    if not sizes:
        raise ImageError(
            f"{name} is a TIFF that has only a thumbnail where its picture should be; save the "
            "picture itself as a PNG of 8 or 16 bits"
        )
    first = min(sizes)
    largest = max(sizes, key=lambda number: math.prod(sizes[number]))
    if largest != first:
        raise ImageError(
            f"{name} is a TIFF whose page {first + 1} has {_by(sizes[first])} pixels, but whose "
            f"page {largest + 1} has {_by(sizes[largest])}; save the page that you mean as a file "
            "of its own"
        )
    if first > 0:
        picture.seek(first)
    if len(sizes) == 1:
        return []
    return [ImageWarning(f"{name} has {len(sizes)} pages, of which only the first is used")]


def _full_pages(path: str | Path) -> dict[int, tuple[int, int]]:
    """(height, width) of the pages of a TIFF, by number; without thumbnails and masks of others.

    Pages after a damaged one are left out.
    """
    found, seen = {}, []
    with open(path, "rb") as file, suppress(Exception):  # Pillow raises nearly anything
        header = file.read(8)
        if 43 in header[2:4]:  # BigTIFF
            header += file.read(8)
        tags = TiffImagePlugin.ImageFileDirectory_v2(header)
        while tags.next and tags.next not in seen:
            seen.append(tags.next)
            file.seek(tags.next)
            tags.load(file)
            if not (tags.get(_NEW_KIND, 0) & 5 or tags.get(_OLD_KIND) == 2):
                found[len(seen) - 1] = int(tags.get(_HEIGHT, 0)), int(tags.get(_WIDTH, 0))
    return found


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _is_exact(picture: Image.Image) -> bool:
    """Whether an open TIFF is of a kind of which Pillow reads the exact numbers."""
    tags = picture.tag_v2
    color, samples, compression = tags.get(_COLOR), tags.get(_SAMPLES, 1), tags.get(_COMPRESSION, 1)
    bits, numbers = max(tags.get(_BITS, (1,))), set(tags.get(_NUMBERS, (_UNSIGNED,)))
    if (
        compression not in _COMPRESSIONS
        or (color == _YCBCR and compression not in _JPEG)
        or (tags.get(_PLANES) == 2 and samples > 1)
        or tags.get(_EXTRA, (0,))[0] == _MULTIPLIED  # by their opacity
        or tags.get(_DEPTH, 1) > 1
    ):
        return False
    if numbers == {_FLOATING}:
        # libtiff gives numbers in the machine's byte order, but Pillow assumes the file's.
        swapped = tags.prefix == b"MM" and compression != 1
        return color == _BLACK_IS_ZERO and not swapped
    if color == _PALETTE:
        # Numbers of 8 bits, in the 16 that a palette has.
        return any(all(n % step == 0 for n in tags[_COLOR_MAP]) for step in (256, 257))
    most = 16 if color in (_BLACK_IS_ZERO, _RGB) else 8
    return numbers == {_UNSIGNED} and bits <= most and color != _CIELAB


def _unreadable_tiff(name: str) -> ImageError:
    return ImageError(
        f"{name} is a TIFF of an unusual kind (such as signed or 32-bit integers, separate planes, "
        "colors multiplied by opacity) that cannot be read exactly; save it as a PNG of 8 or 16 "
        "bits"
    )


# ---- what Pillow says --------------------------------------------------------------------------


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Have Pillow refuse a picture above `MAX_PIXELS`, and suppress its other messages.

    It raises at twice its own limit. It warns and logs about the content of a file; libtiff and its
    JPEG decoder write to the standard error descriptor.
    """
    logger = logging.getLogger("PIL")
    before = logger.level, Image.MAX_IMAGE_PIXELS
    logger.setLevel(logging.CRITICAL + 1)
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2
    try:
        with warnings.catch_warnings(), _silent_stderr():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before[0])
        Image.MAX_IMAGE_PIXELS = before[1]


@contextmanager
def _silent_stderr() -> Iterator[None]:
    try:
        stderr = os.dup(2)
    except OSError:  # already closed
        yield
        return
    try:
        with open(os.devnull, "wb") as null:
            os.dup2(null.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
