"""Shared fixtures. Importing ``siren`` first makes the later ``import jittor`` work everywhere."""

import signal
from pathlib import Path

import pytest

import siren  # noqa: F401  (prepares Jittor's environment)

# nohup, and a shell's background jobs, ignore Ctrl-C, and so would all programs started here.
signal.signal(signal.SIGINT, signal.default_int_handler)

DATA = Path(__file__).resolve().parent.parent / "data"


@pytest.fixture
def data():
    return DATA
