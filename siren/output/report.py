"""Reports: metrics.json and history.csv of a run, summary.csv of several runs."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import NamedTuple

from siren.files import check_mark, open_regular, write_bytes
from siren.text import SCORE_NAMES, align, score_cells

METRICS = "metrics.json"
HISTORY = "history.csv"
SUMMARY = "summary.csv"
MAX_BYTES = 1 << 24  # of a JSON file; there are no longer ones of this program


def encode_json(content: dict) -> bytes:
    """The content of a JSON file. Numbers that JSON lacks (infinity, NaN) become strings."""
    return (json.dumps(_json_safe(content), indent=2, ensure_ascii=False) + "\n").encode()


def read_json(path: Path) -> dict | None:
    """The JSON object in a regular file; None if there is none or it cannot be read."""
    try:
        with open_regular(path) as file:
            content = json.loads(file.read(MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def read_metrics(folder: Path) -> dict | None:
    """The metrics.json of a run; None if there is none, or it is not as a run writes it.

    Scores, those of "baselines" too, are floats, or None where undefined. Only "options", "ended",
    "inputs", "psnr", "ssim" and "seconds" are sure to be there; of "options" and "runtime", the
    values may be anything.
    """
    metrics = read_json(folder / METRICS) or {}
    kinds = {"options": dict, "ended": str, "inputs": str}
    others = {"epochs": int, "height": int, "width": int, "scored": str, "runtime": dict}
    kinds.update((name, kind) for name, kind in others.items() if name in metrics)
    if not all(isinstance(metrics.get(name), kind) for name, kind in kinds.items()):
        return None
    try:
        metrics.update({name: _score(metrics[name]) for name in ("psnr", "ssim", "seconds")})
        for scores in metrics.get("baselines", {}).values():
            scores.update(psnr=_score(scores["psnr"]))
    except (AttributeError, ValueError, TypeError, LookupError, OverflowError):
        return None
    return metrics


def _score(value) -> float | None:
    """A number as ``encode_json`` wrote it; errors as ``float``."""
    return None if value is None else float(value)


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


# ---- several runs ------------------------------------------------------------------------------


class SummaryRow(NamedTuple):
    """One picture's line: PSNR in dB, seconds of training; None without a result."""

    image: str
    folder: str
    task: str
    psnr: float | None
    ssim: float | None
    seconds: float | None
    status: str


def format_table(rows: list[SummaryRow]) -> str:
    """The summary as text: aligned columns under their names, a line for each of ``rows``."""
    lines = [("image", "task", *SCORE_NAMES, "status")]
    lines += [(row.image, row.task, *score_cells(row), row.status) for row in rows]
    return align(lines, right=(2, 3, 4))


def check_summary(folder: Path) -> None:
    """Raise ForeignFile if ``write_summary`` would replace a file without a summary's header."""
    header = ",".join(SummaryRow._fields).encode()
    check_mark(folder / SUMMARY, lambda file: file.readline(1024).strip() == header)


def write_summary(folder: Path, rows: list[SummaryRow]) -> None:
    """Write summary.csv with a line for each of ``rows``. Raises OSError."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(SummaryRow._fields)
    writer.writerows(rows)
    write_bytes(folder / SUMMARY, text.getvalue().encode())
