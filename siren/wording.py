"""Scores in words, and tables of them: the same on the terminal, in panels and on the page."""

from __future__ import annotations

import math

SCORE_NAMES = ("PSNR", "SSIM", "seconds")  # what ``score_cells`` has in its three cells


def decibels(psnr: float | None, undefined: str = "n/a") -> str:
    """PSNR, as "31.25 dB"; ``undefined`` for None and NaN."""
    return undefined if psnr is None or not psnr > -math.inf else f"{psnr:.2f} dB"


def similarity(ssim: float | None, undefined: str = "n/a") -> str:
    """SSIM, as "0.875"; ``undefined`` for None."""
    return undefined if ssim is None else f"{ssim:.3f}"


def score_cells(scores) -> tuple[str, str, str]:
    """The ``psnr``, ``ssim`` and ``seconds`` of ``scores`` for a table; "" where one is None."""
    seconds = "" if scores.seconds is None else f"{scores.seconds:.1f}"
    return decibels(scores.psnr, ""), similarity(scores.ssim, ""), seconds


def align(lines: list[tuple[str, ...]], right: tuple[int, ...] = ()) -> str:
    """The cells of ``lines`` as text in columns; those numbered in ``right`` end at their right."""
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(line, widths))
        ).rstrip()
        for line in lines
    )
