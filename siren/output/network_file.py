"""network.npz: a trained network on disk, which NumPy alone can read."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from siren import npz
from siren.files import write_bytes
from siren.text import printable

NETWORK = "network.npz"


def encode_network(network, shape, bits: int = 8) -> bytes:
    """The content of network.npz.

    It holds ``weight_l`` (out, in) and ``bias_l`` (out,) of layer l, ``omega_0``, and of the
    picture that it was trained on ``shape`` (height, width) and ``bits``, its depth: 8 or 16.
    """
    arrays = {"omega_0": np.float64(network.omega_0), "shape": np.int64(shape)}
    arrays["bits"] = np.int64(bits)
    for depth, layer in enumerate(network.split(network.flat.numpy())):
        arrays[f"weight_{depth}"] = layer.weight
        arrays[f"bias_{depth}"] = layer.bias
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def write_network(folder: Path, network, shape, bits: int = 8) -> None:
    """Write network.npz (see ``encode_network``) into ``folder``. Raises OSError."""
    write_bytes(folder / NETWORK, encode_network(network, shape, bits))


class NetworkError(Exception):
    """A file is not a network.npz; the message says why."""


@dataclass(frozen=True)
class SavedNetwork:
    """The content of network.npz, as ``encode_network`` describes it; ``layers`` are float32."""

    layers: list[tuple[np.ndarray, np.ndarray]]
    omega_0: float
    shape: tuple[int, int]
    bits: int


def read_network(path: Path) -> SavedNetwork:
    """Read and check network.npz; nothing in it is executed. Raises NetworkError."""
    name = printable(str(path))
    try:
        with npz.unpacked(npz.read_file(path)) as arrays:
            weights = [npz.floats(weight, 2) for weight in npz.numbered(arrays, "weight")]
            biases = [npz.floats(bias) for bias in npz.numbered(arrays, "bias")]
            omega_0, (height, width) = float(arrays["omega_0"]), arrays["shape"].tolist()
            bits = int(arrays["bits"]) if "bits" in arrays else 8  # older files lack it
        if not _is_siren(weights, biases):
            raise npz.FormatError("the shapes in it are not those of a SIREN")
        if not 0 < omega_0 < float(np.finfo(np.float32).max):
            raise npz.FormatError(f"its omega_0 is {omega_0:g}; it must be above 0")
        if not all(isinstance(n, int) and 1 < n < 1 << 20 for n in (height, width)):
            raise npz.FormatError("its shape is wrong; no picture has that")
        if bits not in (8, 16):
            raise npz.FormatError(f"its bits are {bits}; there can be 8 or 16")
    except FileNotFoundError:
        raise NetworkError(f"there is no file {name}") from None
    except OSError as error:
        reason = error.strerror or printable(str(error))
        raise NetworkError(f"{name} cannot be read ({reason})") from error
    except npz.FormatError as error:
        raise NetworkError(f"{name} is not a network.npz: {error}") from error
    return SavedNetwork(list(zip(weights, biases)), omega_0, (height, width), bits)


def _is_siren(weights: list[np.ndarray], biases: list[np.ndarray]) -> bool:
    """Whether these are the layers of a SIREN with 2 inputs and hidden layers of one width."""
    if not len(weights) == len(biases) >= 2:
        return False
    widths = [2, *(len(bias) for bias in biases)]
    shapes = [(fan_out, fan_in) for fan_in, fan_out in zip(widths, widths[1:])]
    same = len(set(widths[1:-1])) == 1 and min(widths) > 0
    return same and [weight.shape for weight in weights] == shapes
