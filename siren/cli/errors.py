"""What ends a run early: exceptions, messages to the user, exit statuses."""

from __future__ import annotations

import argparse
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from siren import memory, runtime
from siren.signals import Stop
from siren.text import printable

FAILED, BAD_INPUT, DIVERGED, INTERRUPTED = 1, 2, 3, 130  # exit statuses, beside 0
_RANK_0_FIRST = 2  # seconds


class Problem(Exception):
    """Bad input, which the user can correct; the message is one sentence."""


class Failure(Exception):
    """Something is wrong with the machine; the message is one sentence."""


class Interrupted(Exception):
    """Ctrl-C or SIGTERM; the message says what has been saved."""


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
    status, sentence = FAILED, str(error)
    if isinstance(error, (Problem, runtime.SettingProblem)):
        status = BAD_INPUT
    elif isinstance(error, (Interrupted, KeyboardInterrupt)):
        sentence = sentence or "interrupted before training; nothing was written"
        notify(f"{subject}{sentence}")
        return INTERRUPTION
    elif isinstance(error, ModuleNotFoundError) and runtime.missing_package(error.name):
        sentence = runtime.missing_package(error.name)
    elif memory.is_out_of_memory(error):
        sentence = "not enough memory; try a smaller --sidelength, or fewer --hidden_features"
    elif isinstance(error, runtime.LibraryProblem):
        sentence += " --verbose shows why, and --device cpu does without."
    elif not isinstance(error, (Failure, runtime.RuntimeProblem)):
        kind = type(error).__name__
        first = next(iter(sentence.splitlines()), "")[:200]
        sentence = (
            f"an error of the program, {kind}{': ' if first else ''}{first}; "
            "--verbose shows where, for a report"
        )
    if verbose and status == FAILED:
        traceback.print_exception(type(error), error, error.__traceback__)
    sentence = printable(sentence)
    notify(f"error: {subject}{sentence}")
    return Outcome(status, f"failed: {sentence}")


def run_safely(run: Callable, options: argparse.Namespace, stop: Stop, subject: str) -> Outcome:
    """The outcome of ``run(options, stop)``; an error is reported and does not stop other runs.

    ``subject`` names the run.
    """
    try:
        return run(options, stop)
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, (Interrupted, KeyboardInterrupt)):
            stop.requested = True
        return report_error(error, f"{subject}: ", options.verbose)


def let_rank_0_speak() -> None:
    """In another rank, which has an error to report: wait while rank 0 reports the same one.

    Then mpirun ends this process, silently. An error that rank 0 does not have is reported late.
    """
    try:
        if runtime.rank() == 0:
            return
    except runtime.RuntimeProblem:
        return  # this is the error
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(_RANK_0_FIRST)


def notify(sentence: str) -> None:
    """Print one line on stderr, after the program's name."""
    runtime.notify(f"main.py: {printable(sentence)}")
