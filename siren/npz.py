"""Reading .npz files that anybody may have made: each array is held against a description.

Nothing in a file is executed, no array is taken that the description does not name, and whatever
is wrong is a ``FormatError``.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from siren.files import open_regular

LARGEST = 1 << 34  # bytes of an array: a small file can unpack to any size


class FormatError(ValueError):
    """A file is not what it should be; the message says why, and does not name the file."""


@dataclass(frozen=True)
class Field:
    """What an array must be.

    kinds     letters of ``dtype.kind``: i and u integers, f floats, U text
    shape     lengths of its axes, None for any length; None for any shape at all
    optional  whether it may be absent
    itemsize  bytes of a number, or None for any
    finite    whether numbers must be finite
    """

    kinds: str
    shape: tuple[int | None, ...] | None
    optional: bool = False
    itemsize: int | None = None
    finite: bool = True

    def check(self, name: str, array: np.ndarray) -> None:
        """Raise FormatError unless ``array`` is so."""
        if array.dtype.kind not in self.kinds or self.itemsize not in (None, array.dtype.itemsize):
            raise FormatError(f"its {name} is of type {array.dtype}")
        if self.shape is not None and (
            array.ndim != len(self.shape)
            or any(wanted not in (None, length) for wanted, length in zip(self.shape, array.shape))
        ):
            raise FormatError(f"its {name} has the shape {array.shape}")
        if self.finite and array.dtype.kind == "f" and not np.isfinite(array).all():
            raise FormatError(f"its {name} is not finite")


def float32(*shape: int | None, finite: bool = True) -> Field:
    """An array of float32."""
    return Field("f", shape, itemsize=4, finite=finite)


def read_file(path: Path) -> bytes:
    """The content of a file that may be an .npz; OSError or FormatError for anything else."""
    with open_regular(path) as file:
        start = file.read(4)
        if start[:2] != b"PK":  # before more of it is read: it may be of any size
            raise FormatError("it is no .npz file" if start else "it is empty")
        return start + file.read()


def read_arrays(
    content: bytes, fields: Mapping[str, Field], numbered: Mapping[str, Field]
) -> tuple[dict[str, np.ndarray], dict[str, list[np.ndarray]]]:
    """The arrays of an .npz file: those of ``fields`` by name, and lists of ``numbered`` ones.

    The latter are called name_0, name_1 and so on. Others are not looked at. Raises FormatError.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            sizes = {info.filename: info.file_size for info in file.zip.infolist()}
            found = {name: _read(file, name, sizes) for name in fields if name in file.files}
            lists = {name: _read_numbered(file, name, sizes) for name in numbered}
    except FormatError:
        raise
    except MemoryError as error:
        raise FormatError("it does not fit into memory") from error
    except Exception as error:  # a broken file can raise nearly anything in zipfile and NumPy
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FormatError(f"it is damaged, or no .npz file ({reason[:100]})") from error
    for name, field in fields.items():
        if name in found:
            field.check(name, found[name])
        elif not field.optional:
            raise FormatError(f"it has no {name}")
    for name, field in numbered.items():
        for number, array in enumerate(lists[name]):
            field.check(f"{name}_{number}", array)
    return found, lists


def _read(file, name: str, sizes: dict[str, int]) -> np.ndarray:
    if sizes.get(f"{name}.npy", 0) > LARGEST:
        raise FormatError(f"its {name} has {sizes[f'{name}.npy']} bytes")
    return file[name]


def _read_numbered(file, name: str, sizes: dict[str, int]) -> list[np.ndarray]:
    arrays: list[np.ndarray] = []
    while f"{name}_{len(arrays)}" in file.files:
        arrays.append(_read(file, f"{name}_{len(arrays)}", sizes))
    return arrays
