"""Runs Python in a child process that Ctrl-C ends at once, with all processes that it has started.

Jittor does not return to the interpreter while it compiles, so that in its process a signal waits
until the compiler is done. While a child compiles, this process waits in Python and reacts at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable

# What the child runs first. It gets this process's sys.path; its own would start with the current
# folder.
_PRELUDE = """\
import sys
sys.path[:] = {path!r}
import ctypes, os, runpy, signal
os.environ["siren_progress"] = "1"  # this process's output is read (headers.py)
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
