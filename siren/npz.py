"""Safe reading of .npz files from unknown sources: every array is checked against a ``Field``.

Nothing in a file is executed, arrays without a ``Field`` are ignored, and every defect is a
``FormatError``.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from siren.files import open_regular

MAX_BYTES = 1 << 34  # of an array: a small compressed file can unpack to any size


class FormatError(ValueError):
    """A file is not of the expected format; the message says why, without the file's name."""


@dataclass(frozen=True)
class Field:
    """The type and shape that an array must have.

    kinds     allowed letters of ``dtype.kind``: i and u integers, f floats, U text
    shape     lengths of its axes, None for any length; None for any shape
    optional  whether it may be missing
    itemsize  bytes per value, or None for any
    finite    whether values must be finite
    """

    kinds: str
    shape: tuple[int | None, ...] | None
    optional: bool = False
    itemsize: int | None = None
    finite: bool = True

    def check(self, name: str, array: np.ndarray) -> None:
        """Raise FormatError unless ``array`` fits; ``name`` is for the message."""
        if array.dtype.kind not in self.kinds or self.itemsize not in (None, array.dtype.itemsize):
            raise FormatError(f"its {name} is of type {array.dtype}")
        if self.shape is not None and (
            array.ndim != len(self.shape)
            or any(
                expected not in (None, length) for expected, length in zip(self.shape, array.shape)
            )
        ):
            raise FormatError(f"its {name} has the shape {array.shape}")
        if self.finite and array.dtype.kind == "f" and not np.isfinite(array).all():
            raise FormatError(f"its {name} is not finite")


def float32(*shape: int | None, finite: bool = True) -> Field:
    """The ``Field`` of a float32 array."""
    return Field("f", shape, itemsize=4, finite=finite)


def read_file(path: Path) -> bytes:
    """The bytes of a file that starts like an .npz. Raises OSError or FormatError."""
    with open_regular(path) as file:
        start = file.read(4)
        if start[:2] != b"PK":  # checked first, because the rest may be of any size
            raise FormatError("it is not an .npz file" if start else "it is empty")
        return start + file.read()


def read_arrays(
    content: bytes, fields: Mapping[str, Field], numbered: Mapping[str, Field]
) -> tuple[dict[str, np.ndarray], dict[str, list[np.ndarray]]]:
    """The arrays of an .npz file by name: (those of ``fields``, lists of ``numbered`` ones).

    Numbered arrays are called name_0, name_1 and so on. All others are ignored. Raises FormatError.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            sizes = {info.filename: info.file_size for info in file.zip.infolist()}
            arrays = {name: _read(file, name, sizes) for name in fields if name in file.files}
            lists = {name: _read_numbered(file, name, sizes) for name in numbered}
    except FormatError:
        raise
    except MemoryError as error:
        raise FormatError("it does not fit into memory") from error
    except Exception as error:  # a broken file can raise nearly anything in zipfile and NumPy
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FormatError(f"it is damaged, or not an .npz file ({reason[:100]})") from error
    for name, field in fields.items():
        if name in arrays:
            field.check(name, arrays[name])
        elif not field.optional:
            raise FormatError(f"it has no {name}")
    for name, field in numbered.items():
        for number, array in enumerate(lists[name]):
            field.check(f"{name}_{number}", array)
    return arrays, lists


def _read(file, name: str, sizes: dict[str, int]) -> np.ndarray:
    if sizes.get(f"{name}.npy", 0) > MAX_BYTES:
        raise FormatError(f"its {name} has {sizes[f'{name}.npy']} bytes")
    return file[name]


def _read_numbered(file, name: str, sizes: dict[str, int]) -> list[np.ndarray]:
    arrays: list[np.ndarray] = []
    while f"{name}_{len(arrays)}" in file.files:
        arrays.append(_read(file, f"{name}_{len(arrays)}", sizes))
    return arrays
