"""What lands in the output folder.

Every file is written aside and renamed, so that a reader never sees half of one.
"""

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
from siren.files import write_bytes
from siren.images import to_uint8, write_png
from siren.pictures import Picture

CELL = 256  # pixels: a panel's pictures are enlarged to at least this width
LARGEST = 1024  # pixels: and reduced to at most this one
FONT_SIZE = 15
MARGIN = 8


def write_pictures(folder: Path, task, output: np.ndarray, summary: str, others=(), bits=8) -> None:
    """Write output.png, reference.png, panel.png and, for inpaint, masked.png.

    ``output`` is the restored picture (height, width, channels); ``summary`` its caption;
    ``others`` are ``Picture``s of classical methods to show beside it; ``bits``, 8 or 16, is the
    depth of all but the panel.
    """
    error, largest = pictures.absolute_error(output, task.reference)
    panel = [
        *task.shown,
        *others,
        Picture(summary, output),
        Picture(f"|error|: white is {largest:.2g}", error),
    ]
    write_png(folder / "output.png", output, bits)
    write_png(folder / "reference.png", task.reference, bits)
    write_png(folder / "panel.png", np.asarray(draw_panel(panel)))
    if hasattr(task, "masked"):
        write_png(folder / "masked.png", task.masked, bits)


def write_derivatives(folder: Path, rows, columns, laplacian) -> None:
    """Write gradient.png and laplacian.png, given arrays (height, width, channels)."""
    write_png(folder / "gradient.png", pictures.magnitude(rows, columns)[0])
    write_png(folder / "laplacian.png", pictures.signed(laplacian)[0])


def write_metrics(folder: Path, metrics: dict) -> None:
    """Write metrics.json. Numbers that JSON does not know (infinity) become strings."""
    text = json.dumps(_finite(metrics), indent=2, ensure_ascii=False)
    write_bytes(folder / "metrics.json", (text + "\n").encode())


def read_metrics(folder: Path) -> dict | None:
    """What ``write_metrics`` wrote of a whole run, or None if there is nothing of the kind."""
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf8"))
        kinds = {"options": dict, "ended": str, "inputs": str}
        fits = all(isinstance(metrics[name], kind) for name, kind in kinds.items())
        for name in ("psnr", "ssim", "seconds"):
            metrics[name] = float(metrics[name])
    except (OSError, ValueError, TypeError, LookupError):
        return None
    return metrics if fits else None


def write_history(folder: Path, history) -> None:
    """Write history.csv: one line an epoch; the PSNR in dB only where it was measured."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["epoch", "loss", "validation", "psnr", "seconds"])
    for state in history:
        validation = "" if state.validation is None else f"{state.validation:.9g}"
        quality = "" if state.psnr is None else f"{state.psnr:.4f}"
        loss, seconds = f"{state.loss:.9g}", f"{state.seconds:.3f}"
        writer.writerow([state.epoch, loss, validation, quality, seconds])
    write_bytes(folder / "history.csv", text.getvalue().encode())


def write_network(folder: Path, network, shape, bits: int = 8) -> None:
    """Write network.npz.

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
    write_bytes(folder / "network.npz", content.getvalue())


class NetworkError(Exception):
    """A file is no network that this program wrote; the message says why."""


@dataclass(frozen=True)
class SavedNetwork:
    """What network.npz holds: float32 pairs (weight, bias), omega_0, (height, width), and bits."""

    layers: list[tuple[np.ndarray, np.ndarray]]
    omega_0: float
    shape: tuple[int, int]
    bits: int


def read_network(path: Path) -> SavedNetwork:
    """Read network.npz as ``write_network`` wrote it; nothing in it is executed.

    Raises NetworkError for anything else.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            omega_0, shape = float(file["omega_0"]), file["shape"].tolist()
            bits = int(file["bits"]) if "bits" in file.files else 8  # as older ones are
            count = sum(name.startswith("weight_") for name in file.files)
            layers = [(file[f"weight_{i}"], file[f"bias_{i}"]) for i in range(count)]
    except FileNotFoundError:
        raise NetworkError(f"there is no file {path}") from None
    except Exception as error:  # a broken file can raise nearly anything in zipfile and NumPy
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise NetworkError(f"{path} is not a network.npz ({reason[:100]})") from error
    widths = [weight.shape[1] if weight.ndim == 2 else 0 for weight, _ in layers]
    widths += [layers[-1][0].shape[0]] if widths and widths[-1] else []
    fits = (
        len(layers) >= 2
        and widths[0] == 2
        and len(set(widths[1:-1])) == 1
        and min(widths) > 0
        and all(
            weight.shape == (fan_out, fan_in) and bias.shape == (fan_out,)
            for (weight, bias), fan_in, fan_out in zip(layers, widths, widths[1:])
        )
    )
    if not fits:
        raise NetworkError(f"{path}: the shapes in it are not those of a SIREN")
    if not all(p.dtype == np.float32 and np.isfinite(p).all() for pair in layers for p in pair):
        raise NetworkError(f"{path}: its parameters are not finite float32 numbers")
    if not (math.isfinite(omega_0) and omega_0 > 0):
        raise NetworkError(f"{path}: its omega_0 is {omega_0:g}; it must be above 0")
    if not (len(shape) == 2 and all(1 < n < 1 << 20 for n in shape)):
        raise NetworkError(f"{path}: its shape is {shape}, which is no picture's")
    if bits not in (8, 16):
        raise NetworkError(f"{path}: its bits are {bits}; there can be 8 or 16")
    return SavedNetwork(layers, omega_0, tuple(shape), bits)


def remove_leftovers(folder: Path, task, previewed: bool, curves: bool) -> None:
    """Remove the pictures of an earlier run that this one of ``task`` did not make."""
    absent = [] if hasattr(task, "masked") else ["masked.png"]
    if not previewed:
        absent += ["preview.png", "training.gif"]
    if not curves:
        absent.append("history.png")
    if not task.derivatives:
        absent += ["gradient.png", "laplacian.png"]
    for name in absent:
        (folder / name).unlink(missing_ok=True)


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
