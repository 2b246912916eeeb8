"""Which page of a TIFF, or which frame of an animation, is the picture."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from siren import tiff
from siren.depth import ImageWarning
from siren.opening import ImageError, check_header, open_file, quoted

_ANIMATED = ("GIF", "WEBP", "PNG")


@contextmanager
def open_picture(path: str | Path) -> Iterator[tuple[Image.Image, list[ImageWarning]]]:
    """Open the file at ``path`` at the page that is the picture, and check the header.

    Yields (picture, what is said about the pages that are left out). That page is the first one of
    a TIFF, but not a thumbnail. Errors in the context become ImageErrors.
    """
    name = quoted(path)
    with open_file(path) as picture:
        left_out = _turn_to_page(picture, path, name) if picture.format == "TIFF" else []
        check_header(picture, name)
        yield picture, left_out


def frames_left_out(picture: Image.Image, path: str | Path) -> list[ImageWarning]:
    """A warning if the ``picture``, open at ``path``, is an animation."""
    if picture.format not in _ANIMATED:
        return []
    with open_file(path) as again:  # to count frames moves to others
        try:
            frames = getattr(again, "n_frames", 1)
        except Exception:  # the first frame may be intact even so
            frames = 1
    if frames == 1:
        return []
    return [ImageWarning(f"{quoted(path)} has {frames} frames, of which only the first is used")]


def _turn_to_page(picture: Image.Image, path: str | Path, name: str) -> list[ImageWarning]:
    """Turn to the first full page of a TIFF. Raises ImageError if it is not clear that it is it."""
    pages = tiff.pages(path)
    full = [number for number, page in enumerate(pages) if not (page.is_reduced or page.is_mask)]
    if not full:
        raise ImageError(
            f"{name} is a TIFF that has only a thumbnail where its picture should be; save the "
            "picture itself as a PNG of 8 or 16 bits"
        )
    first = full[0]
    for number in full[1:]:
        if pages[number].area > pages[first].area:
            small, large = (
                f"page {n + 1} has {pages[n].height} x {pages[n].width}" for n in (first, number)
            )
            raise ImageError(
                f"{name} is a TIFF whose {small} pixels, but whose {large}; save the page that you "
                "mean as a file of its own"
            )
    if first > 0:
        picture.seek(first)
    left_out = []
    count = max(len(full), tiff.stacked(picture))
    if count > 1:
        left_out.append(f"{name} has {count} pages, of which only the first is used")
    if any(page.is_mask for page in pages):
        left_out.append(f"{name} has a page that masks its picture, which is not used")
    return [ImageWarning(fact) for fact in left_out]
