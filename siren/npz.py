"""Safe reading of .npz files: nothing is executed, and every defect is a ``FormatError``."""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from siren.files import open_regular

MAX_BYTES = 1 << 34  # of an array: a small compressed file can unpack to any size


class FormatError(ValueError):
    """A file is not of the expected format; the message says why, without the file's name."""


def read_file(path: Path) -> bytes:
    """The bytes of a file that starts like an .npz. Raises OSError or FormatError."""
    with open_regular(path) as file:
        start = file.read(2)
        if start != b"PK":  # checked first, because the rest may be of any size
            raise FormatError("it is not an .npz file")
        return start + file.read()


@contextlib.contextmanager
def unpacked(content: bytes) -> Iterator[Mapping[str, np.ndarray]]:
    """The arrays of an .npz file by name, each read when it is asked for.

    Errors of any kind in the context, such as arrays that are missing or of no use, become
    FormatErrors.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            if any(member.file_size > MAX_BYTES for member in file.zip.infolist()):
                raise FormatError("its arrays are too large")
            yield file
    except FormatError:
        raise
    except MemoryError as error:
        raise FormatError("it does not fit into memory") from error
    except Exception as error:  # NumPy, zipfile and the conversion of odd arrays raise nearly any
        raise FormatError("it is damaged, or was not written by this program") from error


def numbered(arrays: Mapping[str, np.ndarray], name: str) -> list[np.ndarray]:
    """The arrays called name_0, name_1 and so on."""
    names = (f"{name}_{number}" for number in itertools.count())
    return [arrays[each] for each in itertools.takewhile(arrays.__contains__, names)]


def floats(array: np.ndarray, ndim: int | None = 1, finite: bool = True) -> np.ndarray:
    """``array`` if it is float32 with ``ndim`` axes, None for any; FormatError if it is not.

    Its values must be ``finite`` if so asked for.
    """
    if array.dtype.newbyteorder("=") != np.float32 or ndim not in (None, array.ndim):
        raise FormatError(f"it has an array of type {array.dtype} and shape {array.shape}")
    if finite and not np.isfinite(array).all():
        raise FormatError("some of its numbers are not finite")
    return array.astype(np.float32, copy=False)
