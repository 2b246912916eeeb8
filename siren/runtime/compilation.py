"""Shows how far a compilation in a child process has come."""

from __future__ import annotations

import re
import sys
import threading
import time

from siren.notebook import is_notebook, progress_bar
from siren.runtime.problem import notify

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
