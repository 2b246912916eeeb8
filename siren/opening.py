"""Opening a picture file: what is checked before its pixels are decoded, and what errors say."""

from __future__ import annotations

import logging
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from siren import tiff
from siren.text import printable

#: Larger pictures are refused after reading the header, before their pixels take memory.
MAX_PIXELS = 2**28

# Listed because Pillow would otherwise also try formats that start other programs (EPS).
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
_READABLE = "PNG, JPEG, WebP, BMP, TIFF, GIF or PPM"


class ImageError(ValueError):
    """A picture cannot be used; the message is one sentence that says why."""


def quoted(path: str | Path) -> str:
    """``path`` in quotes, as one printable line, whatever the name is."""
    return repr(str(path))


@contextmanager
def open_file(path: str | Path) -> Iterator[Image.Image]:
    """Open the picture at ``path``; errors in the context become ImageErrors."""
    name = quoted(path)
    _check_file(path, name)
    try:
        with (
            _limit_pixels(),
            _suppress_messages(),
            open(path, "rb") as file,
            Image.open(file, "r", _FORMATS) as picture,
        ):
            yield picture
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        with _suppress_messages():
            refuse_tiff(name, tiff.unknown_kind(path))
        raise ImageError(f"{name} is not a {_READABLE} picture, or is damaged") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} has more than {MAX_PIXELS} pixels; make it smaller") from error
    except MemoryError as error:
        raise ImageError(f"{name} does not fit into memory; make it smaller") from error
    except Exception as error:  # on damaged files Pillow raises nearly anything
        _raise_if_from_system(error, name)
        reason = printable(" ".join(str(error).split())[:100]) or type(error).__name__
        raise ImageError(f"{name} cannot be read; it may be damaged ({reason})") from error


def check_header(picture: Image.Image, name: str) -> None:
    """Raise ImageError if the ``picture`` is too large, or would be misread."""
    if min(picture.size) < 1:
        raise ImageError(f"{name} is a picture without pixels")
    if picture.width * picture.height > MAX_PIXELS:
        raise Image.DecompressionBombError
    refuse_tiff(name, tiff.misread_kind(picture))


def refuse_tiff(name: str, kind: str) -> None:
    """Raise ImageError if ``kind``, which describes the unreadable feature of a TIFF, is not ""."""
    if kind:
        raise ImageError(
            f"{name} is a TIFF with {kind}, which cannot be read; save it as a PNG of 8 or 16 bits"
        )


def _check_file(path: str | Path, name: str) -> None:
    """Raise ImageError unless there is a regular file with content at ``path``.

    This is checked before opening, which would block forever on a pipe.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        _raise_if_from_system(error, name)
        raise ImageError(f"{name} cannot be read, it is not a valid name ({error})") from error
    if stat.S_ISDIR(status.st_mode):
        raise ImageError(f"{name} is a folder; name a picture in it")
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(f"{name} is not a regular file")
    if status.st_size == 0:
        raise ImageError(f"{name} is empty")


def _raise_if_from_system(error: Exception, name: str) -> None:
    """Raise ImageError if ``error`` comes from the operating system, not from Pillow."""
    if isinstance(error, FileNotFoundError):
        raise ImageError(f"{name} does not exist") from error
    if isinstance(error, PermissionError):
        raise ImageError(
            f"{name} may not be read; change its permissions or those of its folder"
        ) from error
    if isinstance(error, OSError) and error.strerror:
        reason = error.strerror.lower()
        raise ImageError(f"{name} cannot be read: {reason}; name another file") from error


@contextmanager
def _suppress_messages() -> Iterator[None]:
    """Suppress the messages of Pillow and its libraries about the content of a file.

    Pillow warns and logs; libtiff and its JPEG decoder write to the standard error descriptor.
    """
    logger = logging.getLogger("PIL")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings(), _silent_stderr():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _limit_pixels() -> Iterator[None]:
    """Have Pillow refuse a picture above `MAX_PIXELS`; it raises at twice its own limit."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


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
