"""Runs Python in a child process that Ctrl-C ends at once, with all that it has started.

Jittor holds on to the interpreter while it compiles: where it does so in this process, a signal
waits until the compiler is done. This process waits for the child in Python instead.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

from siren.runtime.problem import say

# What the child runs first. Its sys.path is ours: it would begin with the current folder.
_PRELUDE = """\
import sys
sys.path[:] = {path!r}
import ctypes, os, runpy, signal
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
    arguments: list[str], verbose: bool = False, announcement: str = ""
) -> subprocess.CompletedProcess:
    """Run Python in a process of its own, with this one's environment and ``sys.path``.

    An exception, KeyboardInterrupt above all, ends the child and its own children at once.

    Args:
        arguments: ``["-c", code, ...]`` or ``["-m", module, ...]``, as for the interpreter.
        verbose: hand the child's output on to stderr as it comes.
        announcement: a sentence for stderr if the child takes longer than three seconds.

    Returns:
        The exit status as ``returncode``, stdout and stderr together as ``stdout``.
    """
    prelude = _PRELUDE.format(path=[os.path.abspath(each) for each in sys.path], parent=os.getpid())
    command = [sys.executable, "-c", prelude, *arguments]
    telling = threading.Timer(3, say, [announcement])
    telling.daemon = True
    lines = []
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # and with it a process group, which a terminal's Ctrl-C spares
    )
    try:
        if announcement:
            telling.start()
        for line in process.stdout:  # a progress bar would be fed here
            lines.append(line)
            if verbose:
                sys.stderr.write(line)
        process.wait()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    finally:
        telling.cancel()
        process.stdout.close()
    return subprocess.CompletedProcess(command, process.returncode, "".join(lines))
