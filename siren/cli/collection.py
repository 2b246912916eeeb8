"""Several pictures in one call: which they are, and a folder name for each."""

from __future__ import annotations

import os
from pathlib import Path

from siren.images import ImageError
from siren.output.summary import SUMMARY

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")


def find_pictures(paths: list[Path]) -> list[Path]:
    """``paths`` with each folder replaced by the pictures directly in it, sorted by name.

    A folder's pictures are its files with one of ``SUFFIXES``, in upper or lower case, except
    hidden ones. A file named twice is returned once. Files are not opened. Raises ImageError for a
    folder that has no pictures or cannot be listed.
    """
    files: list[Path] = []
    for path in paths:
        if not os.path.isdir(path):
            files.append(path)
            continue
        try:
            pictures = sorted(
                file
                for file in path.iterdir()
                if file.suffix.lower() in SUFFIXES
                and not file.name.startswith(".")
                and file.is_file()
            )
        except OSError as error:
            reason = error.strerror or error
            raise ImageError(f"{str(path)!r} cannot be listed ({reason})") from error
        if not pictures:
            raise ImageError(f"{str(path)!r} is a folder without pictures; name another one")
        files += pictures
    unique: dict[str, Path] = {}
    for path in files:
        unique.setdefault(os.path.realpath(path), path)
    return list(unique.values())


def folder_names(pictures: list[Path]) -> list[str]:
    """A folder name for each of ``pictures``: its stem, with a number where that is taken."""
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
