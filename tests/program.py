"""main.py as a user calls it."""

import contextlib
import io
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import main

ROOT = Path(__file__).resolve().parent.parent


def run(*arguments, cwd=ROOT):
    """Run it to its end in a process of its own; the result has what it said."""
    return subprocess.run(
        [sys.executable, str(ROOT / "main.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=600,
    )


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
