"""What ends a run early: problems, messages to the user, exit statuses."""

from __future__ import annotations

import contextlib
import signal
import time
import traceback
from dataclasses import dataclass

from siren import memory, runtime
from siren.runtime.install import missing_package
from siren.runtime.messages import BAD_INPUT, FAILED, INTERRUPTED, Problem
from siren.text import printable

DIVERGED = 3  # exit status, beside 0 and those of a Problem
_RANK_0_FIRST = 2  # seconds


@contextlib.contextmanager
def about(option: str, *kinds: type[Exception], way_out: str = ""):
    """Within its context, errors of ``kinds`` become Problems with the ``option``.

    ``way_out`` follows the error's sentence.
    """
    try:
        yield
    except kinds as error:
        raise Problem(f"--{option}: {error}{way_out}") from error


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    status   exit status
    ended    ``Training.ended`` (``training.progress``), or why there was no training
    psnr, ssim, seconds  of the result: dB, and seconds of training; None without a result
    """

    status: int
    ended: str
    psnr: float | None = None
    ssim: float | None = None
    seconds: float | None = None


INTERRUPTION = Outcome(INTERRUPTED, "interrupted")


def overall_status(outcomes: list[Outcome]) -> int:
    """The exit status of several runs: that of an interruption, or of the first that failed."""
    statuses = [outcome.status for outcome in outcomes if outcome.status]
    return INTERRUPTED if INTERRUPTED in statuses else (statuses or [0])[0]


def report_error(error: BaseException, subject: str = "", verbose: bool = False) -> Outcome:
    """Report ``error`` in one sentence; returns the outcome of the run that it ended.

    ``subject`` names the run if there are several. With ``verbose``, the traceback is printed too,
    except for bad input.
    """
    subject = f"{subject}: " if subject else ""
    if isinstance(error, KeyboardInterrupt):
        error = Problem("interrupted before training; nothing was written", INTERRUPTED)
    status = error.status if isinstance(error, Problem) else FAILED
    if status == INTERRUPTED:
        notify(f"{subject}{error}")
        return INTERRUPTION
    if verbose and status == FAILED:
        traceback.print_exception(type(error), error, error.__traceback__)
    sentence = printable(str(error) if status == BAD_INPUT else _failure_in_words(error))
    notify(f"error: {subject}{sentence}")
    return Outcome(status, f"failed: {sentence}")


def _failure_in_words(error: BaseException) -> str:
    missing = isinstance(error, ModuleNotFoundError) and missing_package(error.name)
    if missing:
        return missing
    if memory.is_out_of_memory(error):
        return "not enough memory; try a smaller --sidelength, or fewer --hidden_features"
    if isinstance(error, Problem):
        return str(error)
    kind, first = type(error).__name__, next(iter(str(error).splitlines()), "")[:200]
    return (
        f"an error of the program, {kind}{': ' if first else ''}{first}; "
        "--verbose shows where, for a report"
    )


def let_rank_0_speak() -> None:
    """In another rank, which has an error to report: wait while rank 0 reports the same one.

    Then mpirun ends this process, silently. An error that rank 0 does not have is reported late.
    """
    try:
        if runtime.rank() == 0:
            return
    except Problem:
        return  # this is the error
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(_RANK_0_FIRST)


def notify(sentence: str) -> None:
    """Print one line on stderr, after the program's name."""
    runtime.notify(f"main.py: {printable(sentence)}")
