"""What ends a run early, the sentence that the user is told, and the exit status."""

from __future__ import annotations

import sys
import traceback
from dataclasses import dataclass

from siren import memory, runtime
from siren.text import printable

FAILED, BAD_INPUT, DIVERGED, INTERRUPTED = 1, 2, 3, 130  # exit statuses, beside 0


class Problem(Exception):
    """Something that the user can mend; the message is one sentence."""


class Failure(Exception):
    """Something that went wrong with the machine; the message is one sentence."""


class Interrupted(Exception):
    """Ctrl-C or SIGTERM; the message says what there is of the run now."""


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    status   its exit status
    ended    as ``training.Training`` has it, or why there was no training
    psnr, ssim, seconds  of its result, in dB and of training; None where there is none
    """

    status: int
    ended: str
    psnr: float | None = None
    ssim: float | None = None
    seconds: float | None = None


def explained(error: BaseException, subject: str = "", verbose: bool = False) -> Outcome:
    """The outcome of a run that ended in ``error``, after telling the user in one sentence.

    ``subject`` says which run it was, of several. With ``verbose``, whatever is not the user's
    doing comes with its traceback.
    """
    status, sentence = FAILED, str(error)
    if isinstance(error, Problem):
        status = BAD_INPUT
    elif isinstance(error, (Interrupted, KeyboardInterrupt)):
        sentence = sentence or "interrupted before training; nothing was written"
        tell(f"{subject}{sentence}")
        return Outcome(INTERRUPTED, "interrupted")
    elif memory.is_out_of_memory(error):
        sentence = "not enough memory; try a smaller --sidelength, or fewer --hidden_features"
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
    tell(f"error: {subject}{sentence}")
    return Outcome(status, f"failed: {sentence}")


def tell(sentence: str) -> None:
    """Say one line on stderr, in the program's name."""
    print(f"main.py: {printable(sentence)}", file=sys.stderr, flush=True)
