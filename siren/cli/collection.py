"""Several pictures in one call: which they are, and a folder name for each."""

from __future__ import annotations

import os
from pathlib import Path

from siren.images import ImageError
from siren.output.summary import SUMMARY

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")


def find_pictures(paths: list[Path]) -> list[Path]:
    """``paths`` with each folder replaced by the pictures directly in it, sorted by name.

    Those are its files with one of ``SUFFIXES``, in upper or lower case, that are not hidden. A
    file that is named twice is one picture. Raises ImageError for a folder without pictures or
    that cannot be listed; files are not looked into.
    """
    found: list[Path] = []
    for path in paths:
        if not os.path.isdir(path):
            found.append(path)
            continue
        try:
            pictures = sorted(
                inside
                for inside in path.iterdir()
                if inside.suffix.lower() in SUFFIXES
                and not inside.name.startswith(".")
                and inside.is_file()
            )
        except OSError as error:
            reason = error.strerror or error
            raise ImageError(f"{str(path)!r} cannot be listed ({reason})") from error
        if not pictures:
            raise ImageError(f"{str(path)!r} is a folder without pictures; name another one")
        found += pictures
    distinct: dict[str, Path] = {}
    for path in found:
        distinct.setdefault(os.path.realpath(path), path)
    return list(distinct.values())


def folder_names(pictures: list[Path]) -> list[str]:
    """A name for each of ``pictures``: its own without the suffix; repeated ones get a number."""
    taken = {SUMMARY}
    names = []
    for picture in pictures:
        stem = name = picture.stem.lstrip(".") or "picture"
        number = 1
        while name in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name)
        names.append(name)
    return names
