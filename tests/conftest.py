"""Shared fixtures. ``siren.start`` makes ``import jittor`` work everywhere, and compile quickly."""

import signal
from pathlib import Path

import hypothesis
import pytest

import siren

# nohup, and a shell's background jobs, ignore Ctrl-C, and so would all programs started here.
signal.signal(signal.SIGINT, signal.default_int_handler)

if siren.start("auto") == "cuda":
    import jittor

    jittor.flags.use_cuda = 0  # tests of a GPU switch it on

# On a machine that is busy with other things an example may take any time.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

DATA = Path(__file__).resolve().parent.parent / "data"


@pytest.fixture
def data():
    return DATA
