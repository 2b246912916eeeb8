"""Shared fixtures. ``siren.start`` makes ``import jittor`` work everywhere, and compile quickly."""

import signal
from pathlib import Path

import hypothesis
import pytest

import siren
from siren import signals

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


@pytest.fixture(params=["reference", "fused", "AMX"])
def engine(request):
    """Each engine, without a trial; the fused one with AMX too, where there is that."""
    from siren.engine import reference
    from siren.engine.fused import Fused
    from siren.runtime.machine import allow_amx

    if request.param == "reference":
        return reference
    if request.param == "fused":
        return Fused()
    if not allow_amx():
        pytest.skip("there is no AMX")
    return Fused("bf16x2")


@pytest.fixture(autouse=True)
def _signals():
    """A run that was stopped ignores signals to its end; this process goes on, as do its children.

    Jittor's compile workers would never end, if they inherited that SIGTERM is ignored.
    """
    before = [signal.getsignal(number) for number in signals.SIGNALS]
    yield
    for number, handler in zip(signals.SIGNALS, before):
        signal.signal(number, handler)
