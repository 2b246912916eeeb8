"""Files of arrays, .npz: read safely; and network.npz, a trained network that NumPy alone can read.

Nothing in them is executed, and every defect is a ``FormatError``.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from siren.files import open_regular, write_bytes
from siren.text import printable

NETWORK = "network.npz"


class FormatError(ValueError):
    """A file is not of the expected format; the message says why."""


@contextlib.contextmanager
def unpacked(file: BinaryIO) -> Iterator[Mapping[str, np.ndarray]]:
    """The arrays of an .npz file by name, each read when it is asked for.

    Errors of any kind in the context, such as arrays that are missing or of no use, become
    FormatErrors.
    """
    try:
        with np.load(file, allow_pickle=False) as arrays:
            yield arrays
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


# ---- network.npz -------------------------------------------------------------------------------


def encode_network(network, shape, bits: int = 8) -> bytes:
    """The content of network.npz.

    It holds ``weight_l`` (out, in) and ``bias_l`` (out,) of layer l, ``omega_0``, and of the
    picture that it was trained on ``shape`` (height, width) and ``bits``, its depth: 8 or 16.
    """
    arrays = {"omega_0": float(network.omega_0), "shape": shape, "bits": bits}
    for depth, layer in enumerate(network.split(network.flat.numpy())):
        arrays[f"weight_{depth}"] = layer.weight
        arrays[f"bias_{depth}"] = layer.bias
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def write_network(folder: Path, network, shape, bits: int = 8) -> None:
    """Write network.npz (see ``encode_network``) into ``folder``. Raises OSError."""
    write_bytes(folder / NETWORK, encode_network(network, shape, bits))


@dataclass(frozen=True)
class SavedNetwork:
    """The content of network.npz, as ``encode_network`` describes it; ``layers`` are float32."""

    layers: list[tuple[np.ndarray, np.ndarray]]
    omega_0: float
    shape: tuple[int, int]
    bits: int


def read_network(path: Path) -> SavedNetwork:
    """Read and check network.npz; nothing in it is executed. Raises FormatError."""
    name = printable(str(path))
    try:
        with open_regular(path) as file, unpacked(file) as arrays:
            weights = [floats(weight, 2) for weight in numbered(arrays, "weight")]
            biases = [floats(bias) for bias in numbered(arrays, "bias")]
            omega_0 = float(arrays["omega_0"])
            height, width = map(operator.index, arrays["shape"])
            bits = int(arrays["bits"]) if "bits" in arrays else 8  # older files lack it
        if not (_is_siren(weights, biases) and 0 < omega_0 < float(np.finfo(np.float32).max)):
            raise FormatError("its arrays are not those of a SIREN")
        if not (1 < height < 1 << 20 and 1 < width < 1 << 20 and bits in (8, 16)):
            raise FormatError("no picture has its shape and bits")
    except FileNotFoundError:
        raise FormatError(f"there is no file {name}") from None
    except OSError as error:
        reason = error.strerror or printable(str(error))
        raise FormatError(f"{name} cannot be read ({reason})") from error
    except FormatError as error:
        raise FormatError(f"{name} is not a network.npz: {error}") from error
    return SavedNetwork(list(zip(weights, biases)), omega_0, (height, width), bits)


def _is_siren(weights: list[np.ndarray], biases: list[np.ndarray]) -> bool:
    """Whether these are the layers of a SIREN with 2 inputs and hidden layers of one width."""
    if not len(weights) == len(biases) >= 2:
        return False
    widths = [2, *(len(bias) for bias in biases)]
    shapes = [(fan_out, fan_in) for fan_in, fan_out in zip(widths, widths[1:])]
    same = len(set(widths[1:-1])) == 1 and min(widths) > 0
    return same and [weight.shape for weight in weights] == shapes
