"""The text files of a run: metrics.json and history.csv."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

from siren.files import open_regular

METRICS = "metrics.json"


def encode_json(content: dict) -> bytes:
    """The content of a JSON file. Numbers that JSON lacks (infinity, NaN) become strings."""
    return (json.dumps(_json_safe(content), indent=2, ensure_ascii=False) + "\n").encode()


def read_json(path: Path) -> dict | None:
    """The JSON object in a regular file; None if there is none or it cannot be read."""
    try:
        with open_regular(path) as file:
            content = json.loads(file.read().decode("utf8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def read_metrics(folder: Path) -> dict | None:
    """The metrics.json of a run; None if there is none, or it is not valid.

    Scores are floats, or None where undefined.
    """
    metrics = read_json(folder / METRICS)
    if metrics is None or not is_metrics(metrics):
        return None
    try:
        for name in ("psnr", "ssim", "seconds"):
            metrics[name] = None if metrics[name] is None else float(metrics[name])
    except (ValueError, TypeError, LookupError, OverflowError):
        return None
    return metrics


def is_metrics(content: dict) -> bool:
    """Whether the content of a JSON file is that of a metrics.json."""
    kinds = {"options": dict, "ended": str, "inputs": str}
    return all(isinstance(content.get(name), kind) for name, kind in kinds.items())


def encode_history(history) -> bytes:
    """The content of history.csv: one line per epoch; PSNR in dB where it was measured."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["epoch", "loss", "validation", "psnr", "seconds"])
    for state in history:
        validation = "" if state.validation is None else f"{state.validation:.9g}"
        quality = "" if state.psnr is None else f"{state.psnr:.4f}"
        loss, seconds = f"{state.loss:.9g}", f"{state.seconds:.3f}"
        writer.writerow([state.epoch, loss, validation, quality, seconds])
    return text.getvalue().encode()


def _json_safe(value):
    if isinstance(value, dict):
        return {key: _json_safe(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
