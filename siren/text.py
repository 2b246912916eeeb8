"""Makes text of unknown origin (file names, arguments) safe to print."""

from __future__ import annotations

import re

# C0, C1 and DEL, bidirectional controls, separators of lines and paragraphs, lone surrogates.
_UNSAFE = re.compile(r"[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""``text`` as one line without control characters, which could control a terminal.

    They become escapes such as ``\x1b`` and ``\n``. So do bytes of a file name that are not text,
    which Python represents as surrogates: ``\xff``. All other Unicode stays.
    """
    return _UNSAFE.sub(lambda match: _escape(match[0]), text)


def _escape(character: str) -> str:
    byte = ord(character) - 0xDC00  # if the character is a surrogate for a byte
    if 0x80 <= byte <= 0xFF:
        return f"\\x{byte:02x}"
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
