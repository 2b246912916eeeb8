"""Runs Python in a child process that Ctrl-C ends at once, and shows how far it has come.

Jittor does not return to the interpreter while it compiles, so that in its process a signal waits
until the compiler is done. While a child compiles, this process waits in Python and reacts at once.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from siren.notebook import is_notebook, progress_bar
from siren.runtime.problem import notify

# What the child runs first. It gets this process's sys.path; its own would start with the current
# folder.
_PRELUDE = """\
import sys
sys.path[:] = {path!r}
import ctypes, os, runpy, signal
os.environ["siren_progress"] = "1"  # this process's output is read (patches.py)
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: end with the parent
    if os.getppid() != {parent}:
        sys.exit(1)
option, program, *sys.argv[1:] = sys.argv[1:]
if option == "-m":
    runpy.run_module(program, run_name="__main__", alter_sys=True)
else:
    exec(program, {{"__name__": "__main__"}})
"""


def run_interruptibly(
    arguments: list[str], verbose: bool = False, read: Callable[[str], None] | None = None
) -> subprocess.CompletedProcess:
    """Run Python in a child process, with this one's environment and ``sys.path``.

    An exception in this process, such as KeyboardInterrupt, kills the child and its children.

    Args:
        arguments: ``["-c", code, ...]`` or ``["-m", module, ...]``, as for the interpreter.
        verbose: copy the child's output to stderr as it comes.
        read: called with every line of the child's output, as it comes.

    Returns:
        The exit status as ``returncode``, stdout and stderr together as ``stdout``.
    """
    prelude = _PRELUDE.format(path=[os.path.abspath(each) for each in sys.path], parent=os.getpid())
    command = [sys.executable, "-c", prelude, *arguments]
    lines = []
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # and so a process group that a terminal's Ctrl-C does not reach
    )
    try:
        for line in process.stdout:
            lines.append(line)
            if read is not None:
                read(line)
            if verbose:
                sys.stderr.write(line)
        process.wait()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    finally:
        process.stdout.close()
    return subprocess.CompletedProcess(command, process.returncode, "".join(lines))


_DONE = re.compile(r"^\s*Compiling (?P<what>[^(]*)\((?P<done>\d+)/(?P<all>\d+)\)")
DELAY = 3  # seconds; what is done sooner is not worth a word
LINE_EVERY = 10  # seconds between lines where there is no bar


class Compilation:
    """A context in which a child compiles: a sentence once, then a bar, or lines if there is none.

    announcement  the sentence, for stderr
    files         what is counted, such as "files of Jittor's core"
    """

    def __init__(self, announcement: str, files: str):
        self.files = files
        self.announce = threading.Timer(DELAY, notify, [announcement])
        self.announce.daemon = True
        self.bar = None
        self.first = None  # (time, done) of the first line
        self.last = time.monotonic()

    def __enter__(self) -> Compilation:
        """Announce the compilation, unless it is over soon."""
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
        if match is None or self.announce.is_alive():
            return
        done, count = int(match["done"]), int(match["all"])
        if self.first is None or done < self.first[1]:
            self.first = time.monotonic(), done
            self.last = self.first[0]  # the time left is not known yet
        if sys.stderr.isatty() or is_notebook():
            self._show_bar(done, count)
        elif time.monotonic() - self.last >= LINE_EVERY:
            self.last = time.monotonic()
            begin, before = self.first
            left = (self.last - begin) / max(done - before, 1) * (count - done)
            notify(f"{done} of {count} {self.files} compiled, about {left:.0f} s left")

    def _show_bar(self, done: int, count: int) -> None:
        if self.bar is None or self.bar.total != count:
            if self.bar is not None:
                self.bar.close()
            form = "{desc} {bar} {n_fmt}/{total_fmt}, {remaining} left"
            self.bar = progress_bar(total=count, desc=self.files, bar_format=form, leave=False)
        self.bar.n = done
        self.bar.refresh()
