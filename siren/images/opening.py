"""Opening a picture file at the page that is the picture, and what errors and warnings say."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from siren.files import open_regular
from siren.images import tiff
from siren.text import printable

#: Larger pictures are refused after reading the header, before their pixels take memory.
MAX_PIXELS = 2**28

# Listed because Pillow would otherwise also try formats that start other programs (EPS).
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
_READABLE = "PNG, JPEG, WebP, BMP, TIFF, GIF or PPM"
_ANIMATED = ("GIF", "WEBP", "PNG")


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
                notes = _turn_to_page(picture, path, name) if picture.format == "TIFF" else []
                _check_header(picture, path, name)
                yield picture, notes
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        if magic in tiff.MAGIC:
            raise _unreadable_tiff(path, name) from error
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
    """A note if ``picture``, open at ``path``, is an animation. Its pixels are lost by counting."""
    if picture.format not in _ANIMATED:
        return []
    try:
        frames = getattr(picture, "n_frames", 1)
    except Exception:  # the first frame may be intact even so
        return []
    if frames == 1:
        return []
    return [ImageWarning(f"{quoted(path)} has {frames} frames, of which only the first is used")]


def _turn_to_page(picture: Image.Image, path: str | Path, name: str) -> list[ImageWarning]:
    """Turn to the first full page of a TIFF. Raises ImageError if another one may be meant."""
    pages = tiff.pages(path)
    full = [number for number, page in enumerate(pages) if not (page.is_reduced or page.is_mask)]
    if not full:
        raise ImageError(
            f"{name} is a TIFF that has only a thumbnail where its picture should be; save the "
            "picture itself as a PNG of 8 or 16 bits"
        )
    first = full[0]
    largest = max(full, key=lambda number: pages[number].height * pages[number].width)
    if largest != first:
        small, large = pages[first], pages[largest]
        raise ImageError(
            f"{name} is a TIFF whose page {first + 1} has {small.height} x {small.width} pixels, "
            f"but whose page {largest + 1} has {large.height} x {large.width}; save the page that "
            "you mean as a file of its own"
        )
    if first > 0:
        picture.seek(first)
    notes = []
    count = max(len(full), tiff.stacked(picture))
    if count > 1:
        notes.append(ImageWarning(f"{name} has {count} pages, of which only the first is used"))
    if any(page.is_mask for page in pages):
        notes.append(ImageWarning(f"{name} has a page that masks its picture, which is not used"))
    return notes


def _check_header(picture: Image.Image, path: str | Path, name: str) -> None:
    """Raise ImageError if the ``picture`` is too large, or would be misread."""
    if min(picture.size) < 1:
        raise ImageError(f"{name} is a picture without pixels")
    if picture.width * picture.height > MAX_PIXELS:
        raise Image.DecompressionBombError
    if picture.format == "TIFF" and not tiff.is_exact(picture):
        raise _unreadable_tiff(path, name)


def _unreadable_tiff(path: str | Path, name: str) -> ImageError:
    return ImageError(
        f"{name} is a TIFF ({tiff.describe(path)}) of a kind that cannot be read exactly; save it "
        "as a PNG of 8 or 16 bits"
    )


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
