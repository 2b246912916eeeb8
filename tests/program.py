"""main.py as a user calls it."""

import contextlib
import csv
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import main

ROOT = Path(__file__).resolve().parent.parent
needs_mpirun = pytest.mark.skipif(
    not (shutil.which("mpirun") and shutil.which("mpicc")),
    reason="needs mpirun and mpicc (Debian: openmpi-bin, libopenmpi-dev)",
)
# As main.py, but before the given epoch, of all that it trains, it pauses as with Ctrl-Z. A signal
# that arrives in the pause may reach any thread, so that it is handled a step or two after it.
PAUSING = """
import itertools, os, signal, sys
sys.path.insert(0, sys.argv.pop(1))
from siren.training.progress import Progress
add, epochs, pause = Progress.add, itertools.count(), int(sys.argv.pop(1))
def add_or_pause(*arguments):
    if next(epochs) == pause:
        os.kill(os.getpid(), signal.SIGSTOP)
    add(*arguments)
Progress.add = add_or_pause
import main
sys.exit(main.main())
"""


ONE_THREAD_EACH = {
    **os.environ,
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMP_NUM_THREADS": "1",
}


def begin(command):
    """Start a command, which may be mpirun's, with one thread in each process."""
    return subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env=ONE_THREAD_EACH,
    )


def finish(process):
    """Wait for the end of a started command; (exit status, stdout, stderr)."""
    out, err = process.communicate(timeout=500)
    return process.returncode, out, err


def state(pid):
    """The letter of a process's state: Z or X when it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "X"


def draw(path, size, seed):
    """Write a picture of this size (width, height): smooth noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(path)


def statuses(folder):
    """Of each run in summary.csv, by its folder."""
    with (folder / "summary.csv").open() as file:
        return {row["folder"]: row["status"] for row in csv.DictReader(file)}


def network(folder):
    """The bytes of each array of network.npz."""
    with np.load(folder / "network.npz") as file:
        return {name: file[name].tobytes() for name in file.files}


def run(*arguments, cwd=ROOT):
    """Run it to its end in a process of its own; the result has what it said."""
    return subprocess.run(
        [sys.executable, str(ROOT / "main.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=600,
    )


def python(code, cwd=ROOT, **how):
    """What a program in Python prints in a process of its own, which has to end well."""
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, **how)
    assert result.returncode == 0, result.stderr
    return result.stdout


def wait_for(condition):
    """Wait for some minutes until it is true; raises an AssertionError if that does not happen."""
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it does not happen")


@contextlib.contextmanager
def paused(epoch, *arguments):
    """A process of its own that runs it and pauses before ``epoch``, until ``go_on``.

    Epochs are counted from 0 in that process, and include the last loss of each training.
    """
    command = [sys.executable, "-c", PAUSING, str(ROOT), str(epoch), *map(str, arguments)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            _, status = os.waitpid(process.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status), process.stderr.read()
            yield process
        finally:
            process.kill()


def go_on(process, *signals):
    """Let a paused process meet ``signals`` and run to its end; the same result as of ``run``."""
    for number in (*signals, signal.SIGCONT):
        process.send_signal(number)
    out, err = process.communicate(timeout=600)
    return Called(process.returncode, out, err)


@dataclass
class Called:
    """What ``call`` has seen."""

    returncode: int
    stdout: str
    stderr: str


def call(*arguments):
    """Run it to its end in this process, which is much quicker; the same result."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["main.py", *map(str, arguments)])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = main.main()
            except SystemExit as end:
                status = end.code
    return Called(status, out.getvalue(), err.getvalue())
