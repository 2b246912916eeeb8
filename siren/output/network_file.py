"""network.npz: a trained network on disk, which NumPy alone can read."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from siren.files import write_bytes
from siren.npz import Field, FormatError, float32, read_arrays, read_file
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


_FIELDS = {
    "omega_0": Field("fiu", ()),
    "shape": Field("iu", (2,)),
    "bits": Field("iu", (), optional=True),
}
_LAYERS = {"weight": float32(None, None), "bias": float32(None)}


def read_network(path: Path) -> SavedNetwork:
    """Read and check network.npz; nothing in it is executed. Raises NetworkError."""
    name = printable(str(path))
    try:
        arrays, lists = read_arrays(read_file(path), _FIELDS, _LAYERS)
        layers = _checked_layers(lists["weight"], lists["bias"])
        omega_0, shape = float(arrays["omega_0"]), tuple(arrays["shape"].tolist())
        bits = int(arrays.get("bits", 8))  # older files lack it
        if not 0 < omega_0 < float(np.finfo(np.float32).max):
            raise FormatError(f"its omega_0 is {omega_0:g}; it must be above 0")
        if not all(1 < n < 1 << 20 for n in shape):
            raise FormatError(f"its shape is {shape}; no picture has that")
        if bits not in (8, 16):
            raise FormatError(f"its bits are {bits}; there can be 8 or 16")
    except FileNotFoundError:
        raise NetworkError(f"there is no file {name}") from None
    except OSError as error:
        reason = error.strerror or printable(str(error))
        raise NetworkError(f"{name} cannot be read ({reason})") from error
    except FormatError as error:
        raise NetworkError(f"{name} is not a network.npz: {error}") from error
    return SavedNetwork(layers, omega_0, shape, bits)


def _checked_layers(weights, biases) -> list[tuple[np.ndarray, np.ndarray]]:
    """The layers of a SIREN with 2 inputs, as pairs (weight, bias). Raises FormatError."""
    widths = [weight.shape[1] for weight in weights] + [len(weight) for weight in weights[-1:]]
    fits = (
        len(weights) == len(biases) >= 2
        and widths[0] == 2
        and len(set(widths[1:-1])) == 1
        and min(widths) > 0
        and all(
            weight.shape == (fan_out, fan_in) and bias.shape == (fan_out,)
            for weight, bias, fan_in, fan_out in zip(weights, biases, widths, widths[1:])
        )
    )
    if not fits:
        raise FormatError("the shapes in it are not those of a SIREN")
    return [
        (weight.astype(np.float32, copy=False), bias.astype(np.float32, copy=False))
        for weight, bias in zip(weights, biases)
    ]
