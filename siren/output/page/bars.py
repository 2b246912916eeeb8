"""Bars: the PSNR of the network and of the classical methods."""

from __future__ import annotations

from siren.output.page.markup import Markup, tag

EXACT = 100  # dB; from here on, two pictures differ by rounding errors only


def draw_bars(scores: dict[str, float | None], own: str) -> Markup:
    """A table of ``scores``, PSNR in dB by name, with a bar for each; ``own`` is the network's.

    The highest score has the longest bar.
    """
    positive = [score for score in scores.values() if score is not None and score > 0]
    longest = min(EXACT, max(positive, default=1.0))
    rows = []
    for name, score in scores.items():
        bar = tag("rect", width=f"{_length(score, longest):.1f}%", height="100%", rx="3")
        kind = "own" if name == own else "exact" if _is_exact(score) else None
        rows.append(
            tag(
                "tr",
                tag("th", name, scope="row"),
                tag("td", tag("svg", bar, class_="bar", aria_hidden="true")),
                tag("td", describe(score), class_="number"),
                class_=kind,
            )
        )
    return tag("table", tag("tbody", *rows), class_="bars")


def describe(score: float | None) -> str:
    """PSNR in words: a number, or what an infinite or missing one means."""
    if score is None or not score > -1e9:  # NaN too
        return "n/a"
    return "exact" if _is_exact(score) else f"{score:.2f} dB"


def _is_exact(score: float | None) -> bool:
    return score is not None and score >= EXACT


def _length(score: float | None, longest: float) -> float:
    """The length of a bar in percent."""
    if score is None or not score > 0:
        return 0.0
    return min(100.0, 100 * score / longest)
