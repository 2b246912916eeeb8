"""Numbers and times in words, whatever metrics.json has in their place."""

from __future__ import annotations

from datetime import datetime

from siren.output.page.runs import MAX_TEXT, Run

NOTHING = "–"


def number(value, digits: int) -> str:
    """A number with so many decimals; a dash for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return NOTHING
    if not -1e9 < value < 1e9:
        return "∞" if value > 0 else NOTHING  # NaN too
    return f"{value:.{digits}f}"


def seconds(run: Run) -> str:
    """The time of the training, without its unit."""
    value = run.metrics["seconds"]
    return number(value, 1 if value is not None and value < 100 else 0)


def date(run: Run) -> str:
    """When the run ended, in local time."""
    try:
        return f"{datetime.fromtimestamp(run.modified):%Y-%m-%d %H:%M}"
    except (ValueError, OverflowError, OSError):  # a file system can store any year
        return NOTHING


def file_size(count: int) -> str:
    """A number of bytes in decimal units."""
    return f"{count / 1e3:.1f} kB" if count < 1e6 else f"{count / 1e6:.1f} MB"


def setting(value) -> str:
    """The value of an option, or of another fact, as a person would write it."""
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return " ".join(setting(item) for item in value if not isinstance(item, list))[:MAX_TEXT]
    return str(value)[:MAX_TEXT] if isinstance(value, (str, int)) else NOTHING
