"""What --precision means on the machine at hand."""

import pytest

from siren.cli import machine, options
from siren.cli.errors import Problem


@pytest.fixture
def started(monkeypatch):
    """``start_jittor`` with command-line arguments, on a device with AMX or without."""

    def start(device, amx, *arguments):
        monkeypatch.setattr(machine.runtime, "start", lambda *_: device)
        monkeypatch.setattr(machine, "allow_amx", lambda: amx)
        return machine.start_jittor(options.parse(["--task", "fit", *arguments]))

    return start


@pytest.mark.parametrize(
    ("device", "amx", "precision"),
    [("cuda", True, "fp16"), ("cpu", True, "bf16x2"), ("cpu", False, "fp32")],
)
def test_auto_is_the_fastest_that_trains_as_well(started, device, amx, precision):
    assert started(device, amx) == (device, precision)
    assert started(device, amx, "--precision", precision) == (device, precision)
    assert started(device, amx, "--precision", "fp32") == (device, "fp32")


@pytest.mark.parametrize(
    ("device", "amx", "precision", "reason"),
    [
        ("cpu", False, "bf16x2", "AMX"),
        ("cuda", True, "bf16x2", "AMX"),
        ("cpu", True, "fp16", "needs a GPU"),
        ("cpu", True, "bf16", "needs a GPU"),
    ],
)
def test_a_precision_that_is_not_there_is_refused(started, device, amx, precision, reason):
    with pytest.raises(Problem, match=f"--precision {precision} needs .*leave it out") as caught:
        started(device, amx, "--precision", precision)
    assert reason in str(caught.value)
