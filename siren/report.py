"""The contents of the files that land in the output folder, and reading them again."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from siren import pictures
from siren.files import open_regular, write_bytes
from siren.images import to_uint8
from siren.npz import Field, FormatError, float32, read_arrays, read_file
from siren.pictures import Picture
from siren.text import printable

METRICS = "metrics.json"
NETWORK = "network.npz"
CELL = 256  # pixels: a panel's pictures are enlarged to at least this width
LARGEST = 1024  # pixels: and reduced to at most this one
FONT_SIZE = 15
MARGIN = 8


def draw_result(task, output: np.ndarray, summary: str, others=()) -> np.ndarray:
    """The panel of a result: the task's pictures, ``others``, the output and its error.

    ``output`` is the restored picture (height, width, channels); ``summary`` its caption;
    ``others`` are ``Picture``s of classical methods to show beside it. Returns uint8 RGB.
    """
    error, largest = pictures.absolute_error(output, task.reference)
    panel = [
        *task.shown,
        *others,
        Picture(summary, output),
        Picture(f"|error|: white is {largest:.2g}", error),
    ]
    return np.asarray(draw_panel(panel))


def encode_json(content: dict) -> bytes:
    """A JSON file. Numbers that JSON does not know (infinity) become strings."""
    return (json.dumps(_finite(content), indent=2, ensure_ascii=False) + "\n").encode()


def read_json(path: Path) -> dict | None:
    """What a regular file holds, or None where that is no JSON object, or cannot be read."""
    try:
        with open_regular(path) as file:
            content = json.loads(file.read().decode("utf8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def read_metrics(folder: Path) -> dict | None:
    """The metrics.json of a run, or None if there is nothing of the kind.

    Scores are floats, or None where they are not defined.
    """
    metrics = read_json(folder / METRICS)
    if metrics is None or not is_metrics(metrics):
        return None
    try:
        for name in ("psnr", "ssim", "seconds"):
            metrics[name] = None if metrics[name] is None else float(metrics[name])
    except (ValueError, TypeError, LookupError):
        return None
    return metrics


def is_metrics(content: dict) -> bool:
    """Whether the content of a JSON file is what a run of this program says of itself."""
    kinds = {"options": dict, "ended": str, "inputs": str}
    return all(isinstance(content.get(name), kind) for name, kind in kinds.items())


def encode_history(history) -> bytes:
    """history.csv: one line an epoch; the PSNR in dB only where it was measured."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["epoch", "loss", "validation", "psnr", "seconds"])
    for state in history:
        validation = "" if state.validation is None else f"{state.validation:.9g}"
        quality = "" if state.psnr is None else f"{state.psnr:.4f}"
        loss, seconds = f"{state.loss:.9g}", f"{state.seconds:.3f}"
        writer.writerow([state.epoch, loss, validation, quality, seconds])
    return text.getvalue().encode()


def encode_network(network, shape, bits: int = 8) -> bytes:
    """The content of network.npz.

    It holds ``weight_l`` (out, in) and ``bias_l`` (out,) of layer l, ``omega_0``, ``shape``
    (height, width), the pixels that it was trained at, and ``bits``, 8 or 16, the depth of these.
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
    """Write network.npz, as ``encode_network`` has it, into ``folder``. Raises OSError."""
    write_bytes(folder / NETWORK, encode_network(network, shape, bits))


class NetworkError(Exception):
    """A file is no network that this program wrote; the message says why."""


@dataclass(frozen=True)
class SavedNetwork:
    """What network.npz holds: float32 pairs (weight, bias), omega_0, (height, width), and bits."""

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
    """Read network.npz as ``encode_network`` made it; nothing in it is executed.

    Raises NetworkError for anything else.
    """
    name = printable(str(path))
    try:
        arrays, lists = read_arrays(read_file(path), _FIELDS, _LAYERS)
        layers = _checked_layers(lists["weight"], lists["bias"])
        omega_0, shape = float(arrays["omega_0"]), tuple(arrays["shape"].tolist())
        bits = int(arrays.get("bits", 8))  # older ones do not tell
        if not 0 < omega_0 < np.finfo(np.float32).max:
            raise FormatError(f"its omega_0 is {omega_0:g}; it must be above 0")
        if not all(1 < n < 1 << 20 for n in shape):
            raise FormatError(f"its shape is {shape}, which is no picture's")
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
    """Pairs of a SIREN's layers, from its 2 inputs to its outputs; FormatError for others."""
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


def draw_panel(panel: list[Picture]) -> Image.Image:
    """The pictures side by side, each under its caption."""
    font = ImageFont.load_default(FONT_SIZE)
    cells = [_sized(picture.image) for picture in panel]
    captions = [_wrap(picture.caption, cell.width, font) for picture, cell in zip(panel, cells)]
    line_height = FONT_SIZE + 5
    top = MARGIN + line_height * max(len(lines) for lines in captions) + MARGIN // 2
    width = sum(cell.width for cell in cells) + MARGIN * (len(cells) + 1)
    sheet = Image.new("RGB", (width, top + cells[0].height + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    left = MARGIN
    for cell, lines in zip(cells, captions):
        for number, line in enumerate(lines):
            draw.text((left, MARGIN + number * line_height), line, fill="black", font=font)
        sheet.paste(cell, (left, top))
        left += cell.width + MARGIN
    return sheet


def _sized(image: np.ndarray) -> Image.Image:
    """As an RGB picture from ``CELL`` to ``LARGEST`` wide.

    Each pixel becomes a square of whole pixels, or a square of whole pixels becomes one.
    """
    pixels = to_uint8(image)
    reduction = math.ceil(image.shape[1] / LARGEST)
    if reduction > 1:
        gray = pixels.shape[2] == 1
        small = Image.fromarray(pixels[..., 0] if gray else pixels).reduce(reduction)
        return small.convert("RGB")
    pixels = np.broadcast_to(pixels, (*image.shape[:2], 3))
    factor = math.ceil(CELL / image.shape[1])
    return Image.fromarray(pixels.repeat(factor, axis=0).repeat(factor, axis=1), "RGB")


def _wrap(caption: str, width: int, font) -> list[str]:
    lines = [""]
    for word in caption.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
