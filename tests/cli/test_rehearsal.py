"""The run in miniature that compiles what a run needs."""

import json

import pytest
from program import ROOT, call

from siren.cli import machine
from siren.cli.options import parse
from siren.cli.recipes import resolve
from siren.runtime import environment

TUNED = ["--recipe", "tuned", "--hidden_features", "8", "--device", "cpu"]
PROGRAM = str(ROOT / "main.py")


@pytest.fixture
def children(monkeypatch, tmp_path):
    """The command lines that children would be given; stamps go to a folder of the test's own."""
    given = []
    monkeypatch.setattr(environment, "private_folder", lambda: tmp_path)
    monkeypatch.setattr(
        machine, "run_interruptibly", lambda arguments, read: given.append(arguments)
    )
    return given


@pytest.mark.parametrize(
    "arguments",
    [
        ["--task", "fit", "--preview_every", "5", "--channels", "3"],
        ["--task", "poisson", "--operator", "forward"],
        ["--task", "edit", "--mask_path", "mask.png", "--offset", "3", "4", "--aspect", "keep"],
        ["--task", "inpaint", "--points", "3000"],
    ],
    ids=" ".join,
)
def test_a_run_is_rehearsed_once_on_noise(children, arguments, tmp_path, monkeypatch):
    options = resolve(parse([*TUNED, *arguments]), (256, 256))
    options.input_path = ROOT / "data" / "camera.png"
    options.precision = "fp32"
    for device, bits, stamp in (
        ("cpu", 16, "stamp"),
        ("cpu", 16, "stamp"),
        ("cpu", 8, "stamp"),
        ("cpu", 16, "another stamp"),
        ("cuda", 16, "the stamp of a GPU"),
    ):
        monkeypatch.setattr(machine, "trial_facts", lambda *_, stamp=stamp: [stamp])
        machine.rehearse(PROGRAM, options, device, bits)
    assert {program for program, *_ in children} == {PROGRAM}
    sides = [command[command.index("--sidelength") + 1] for command in children]
    assert sides == ["16", "16", "16", "256"]

    monkeypatch.undo()
    small = machine.in_miniature(options, tmp_path, 16, 16)
    result = machine.run_interruptibly([PROGRAM, *machine.as_arguments(small)])
    assert result.returncode == 0, result.stdout
    metrics = json.loads((small.output_dir / "metrics.json").read_text())
    assert (metrics["height"], metrics["width"]) == (16, 16)
    assert (small.output_dir / "output.png").read_bytes()[24] == 16
    for name in machine.DECISIVE:
        assert bool(getattr(small, name)) == bool(getattr(options, name)), name


def test_an_interrupted_rehearsal_is_not_done(children, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    options = resolve(parse([*TUNED, "--task", "fit"]), (256, 256))
    monkeypatch.setattr(machine, "run_interruptibly", interrupt)
    with pytest.raises(KeyboardInterrupt):
        machine.rehearse(PROGRAM, options, "cpu", 8)
    monkeypatch.setattr(
        machine, "run_interruptibly", lambda arguments, read: children.append(arguments)
    )
    machine.rehearse(PROGRAM, options, "cpu", 8)
    assert len(children) == 1


def test_a_short_run_is_not_rehearsed(children):
    options = parse([*TUNED, "--sidelength", "24", "--epochs", "3"])
    machine.rehearse(PROGRAM, options, "cpu", 8)
    assert not children


def test_a_rehearsal_that_fails_is_no_failure(monkeypatch, tmp_path):
    arguments = ["--sidelength", "16", "--epochs", "1", "--hidden_features", "8"]
    monkeypatch.setattr(machine, "WORTH", 1)
    monkeypatch.setattr(environment, "private_folder", lambda: tmp_path)
    monkeypatch.setattr(machine, "as_arguments", lambda _: ["--no_such_option"])
    assert call(*arguments, "--output_dir", tmp_path / "out").returncode == 0
