"""The size of a picture, from the first bytes of its file."""

from __future__ import annotations

import struct
from pathlib import Path

from siren.files import open_regular


def picture_size(path: Path) -> tuple[int, int] | None:
    """(height, width) in the header of a PNG or GIF; None if there is no such file."""
    try:
        with open_regular(path) as file:
            head = file.read(24)
    except (OSError, ValueError):
        return None
    if len(head) == 24 and head.startswith(b"\x89PNG\r\n\x1a\n"):
        width, height = struct.unpack(">II", head[16:])
    elif len(head) == 24 and head.startswith((b"GIF87a", b"GIF89a")):
        width, height = struct.unpack("<HH", head[6:10])
    else:
        return None
    return (height, width) if 0 < height < 1 << 31 and 0 < width < 1 << 31 else None
