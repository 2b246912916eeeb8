"""What the user is told: problems, in a sentence each, and how far a compilation has come."""

from __future__ import annotations

import re
import signal
import sys
import threading
import time

from siren.notebook import is_notebook, progress_bar

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130  # exit statuses


class Problem(Exception):
    """What ends a run, in a sentence for the user, who can do something about it.

    status  ``BAD_INPUT``: an option, a file or a variable is wrong; ``FAILED``: so is the machine;
            ``INTERRUPTED``: Ctrl-C or SIGTERM, and the sentence says what is saved
    """

    def __init__(self, sentence: str, status: int = BAD_INPUT):
        super().__init__(sentence)
        self.status = status


def failure(sentence: str) -> Problem:
    """The ``Problem`` of a machine that lacks something, or has what does not work."""
    return Problem(sentence, FAILED)


def notify(sentence: str) -> None:
    """Print a line on stderr."""
    print(sentence, file=sys.stderr, flush=True)


def telling_line(output: str) -> str:
    """The line of a program's output that says most: the first error, or else the last line.

    It has no color codes. It is empty if no line has words in it.
    """
    plain = re.sub(r"\x1b\[[0-9;]*[mK]", "", output)
    lines = [line.strip() for line in plain.splitlines() if re.search(r"\w", line)]
    errors = [line for line in lines if re.search(r"\b(error|fatal)\s*: ", line, re.IGNORECASE)]
    line = (errors or lines[-1:] or [""])[0]
    return line if len(line) <= 300 else line[:300] + " ..."


def describe_error(error: BaseException) -> str:
    """An error's type and the telling line of its message."""
    return f"{type(error).__name__}: {telling_line(str(error)) or 'no message'}"


def why_it_failed(returncode: int, output: str) -> str:
    """Why a program has failed, given its exit status and what it printed."""
    if returncode == -signal.SIGKILL or re.search(_KILLED, output):
        return "it was killed, perhaps for lack of memory; close other programs and try again"
    if returncode < 0:
        return f"it was ended by {signal.Signals(-returncode).name}"
    return telling_line(output) or f"it ended with status {returncode}"


# What g++ and Jittor say of a compiler that was killed.
_KILLED = r"Caught SIGCHLD|Killed signal|signal terminated"
_DONE = re.compile(r"^\s*Compiling (?P<what>[^(]*)\((?P<done>\d+)/(?P<all>\d+)\)")
DELAY = 3  # seconds; what is done sooner is not worth a word
LINE_EVERY = 10  # seconds between lines where there is no bar


class Compilation:
    """A context in which a child compiles: a sentence once, then a bar, or lines if there is none.

    announcement  the sentence, for stderr; if it is "", nothing is said
    files         what is counted, such as "files of Jittor's core"
    """

    def __init__(self, announcement: str, files: str):
        self.files, self.shown = files, bool(announcement)
        self.announce = threading.Timer(DELAY, notify, [announcement])
        self.announce.daemon = True
        self.bar = None
        self.last = time.monotonic()

    def __enter__(self) -> Compilation:
        """Announce the compilation, unless it is over soon."""
        if self.shown:
            self.announce.start()
        return self

    def __exit__(self, *_) -> None:
        """Remove the bar."""
        self.announce.cancel()
        if self.bar is not None:
            self.bar.close()

    def read(self, line: str) -> None:
        """Show the progress that a ``line`` of the child's output tells of, if it does."""
        match = _DONE.match(line)
        if match is None or self.announce.is_alive() or not self.shown:
            return
        done, count = int(match["done"]), int(match["all"])
        if sys.stderr.isatty() or is_notebook():
            self._show_bar(done, count)
        elif time.monotonic() - self.last >= LINE_EVERY:
            self.last = time.monotonic()
            notify(f"{done} of {count} {self.files} compiled")

    def _show_bar(self, done: int, count: int) -> None:
        if self.bar is None:
            form = "{desc} {bar} {n_fmt}/{total_fmt}, {remaining} left"
            self.bar = progress_bar(total=count, desc=self.files, bar_format=form, leave=False)
        elif self.bar.total != count:
            self.bar.reset(count)
        self.bar.n = done
        self.bar.refresh()
