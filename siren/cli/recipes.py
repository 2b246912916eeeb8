"""Recipes: sets of defaults, chosen by ``--recipe``."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Recipe:
    """Settings by the names of main.py's options; the defaults are the course report's."""

    epochs: int = 1000
    optimizer: str = "adam"
    lr: float = 1e-4
    schedule: str = "constant"
    operator: str = "forward"
    residual_norm: str = "operator"
    prior: str = "none"
    hold_out: float = 0.0
    omega_0: float = 30.0


_REPORT = Recipe()
_TUNED = Recipe(
    epochs=100,
    optimizer="muon",
    lr=1e-3,
    schedule="linear",
    operator="fd",
    residual_norm="pixel",
)
# Lower frequencies and a prior fill gaps smoothly instead of fitting every given pixel.
_TUNED_INPAINT = replace(_TUNED, epochs=200, prior="tv", hold_out=0.05, omega_0=10.0)

NAMES = ("report", "tuned")


def recipe(name: str, task: str) -> Recipe:
    """The recipe called ``name``, one of ``NAMES``, for one of main.py's tasks."""
    if name == "report":
        return _REPORT
    return _TUNED_INPAINT if task == "inpaint" else _TUNED


def default_points(pixels: int) -> int:
    """The default of ``--points`` for a picture of that many ``pixels``.

    The report's 5000 for 256 * 256; for other sizes the same share, rounded, and at least 1.
    """
    return max(1, round(pixels * 5000 / 65536))
