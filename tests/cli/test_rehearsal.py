"""The run in miniature that compiles what a run needs."""

import json
import types
from dataclasses import replace
from pathlib import Path

import pytest
from program import ROOT, call

from siren.cli import machine
from siren.cli.options import parse
from siren.cli.recipes import resolve
from siren.engine.fused import Fused
from siren.engine.workload import Workload
from siren.runtime import environment, processes

TUNED = ["--recipe", "tuned", "--hidden_features", "8", "--device", "cpu"]
PROGRAM = str(ROOT / "main.py")


@pytest.fixture
def children(monkeypatch, tmp_path):
    """The command lines that children would be given; stamps go to a folder of the test's own."""
    given = []
    monkeypatch.setattr(environment, "private_folder", lambda: tmp_path)
    monkeypatch.setattr(
        machine,
        "run_interruptibly",
        lambda arguments, read: given.append(arguments) or types.SimpleNamespace(returncode=0),
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
        machine.rehearse(PROGRAM, [(options, bits)], device, "fp32")
    assert {program for _, _, program, _ in children} == {PROGRAM}
    commands = [json.loads(command) for *_, command in children]
    sides = [command[command.index("--sidelength") + 1] for command in commands]
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


def test_several_runs_are_rehearsed_by_one_process(monkeypatch, tmp_path):
    """Also after one that fails."""
    outputs, children = [], []

    def keep(arguments, read):
        children.append(arguments)
        result = processes.run_interruptibly(arguments, read=read)
        for command in map(json.loads, arguments[3:]):
            folder = Path(command[command.index("--output_dir") + 1])
            outputs.append(sorted(path.name for path in folder.glob("*.png")))
        return result

    monkeypatch.setattr(environment, "private_folder", lambda: tmp_path)
    monkeypatch.setattr(machine, "run_interruptibly", keep)
    runs = []
    for task in ("poisson", "edit", "fit"):
        options = resolve(parse([*TUNED, "--task", task]), (256, 256))
        options.input_path, options.precision = ROOT / "data" / "camera.png", "fp32"
        runs.append((options, 8))
    runs[0][0].schedule = "unknown"
    machine.rehearse(PROGRAM, [*runs, *runs], "cpu", "fp32")
    assert len(outputs) == 3 and len(children) == 1
    assert outputs[0] == [] and "panel.png" in outputs[1] and "panel.png" in outputs[2]
    machine.rehearse(PROGRAM, runs, "cpu", "fp32")
    assert len(outputs) == 3


@pytest.mark.parametrize("status", [-11, 1])
def test_after_a_crash_all_runs_are_still_to_be_rehearsed(monkeypatch, tmp_path, status):
    ends = []

    def child(arguments, read):
        ends.append(0 if ends else status)
        return types.SimpleNamespace(returncode=ends[-1], stdout="")

    monkeypatch.setattr(environment, "private_folder", lambda: tmp_path)
    monkeypatch.setattr(machine, "run_interruptibly", child)
    runs = [(resolve(parse([*TUNED, "--task", task]), (256, 256)), 8) for task in ("fit", "edit")]
    for count in (1, 2, 2):
        machine.rehearse(PROGRAM, runs, "cpu", "fp32")
        assert len(ends) == count


def test_kernels_of_later_runs_are_compiled_with_those_of_the_first(monkeypatch, tmp_path):
    tried = []

    def child(arguments, read):
        tried.append(arguments[2:])
        broken = any('"width": 9' in text for text in arguments)
        return types.SimpleNamespace(returncode=int(broken), stdout="broken")

    monkeypatch.setattr(environment, "private_folder", lambda: tmp_path)
    monkeypatch.setattr(machine, "run_interruptibly", child)
    narrow, wide, broken = (Workload(width=width) for width in (8, 16, 9))
    # The others' precision is that of this run, which the device has decided.
    others = [replace(wide, precision="fp16"), narrow]
    engine = machine.load_engine("fused", narrow, "cpu", others)
    assert engine == machine.load_engine("fused", wide, "cpu") == Fused()
    assert tried == [[narrow.to_json("cpu"), wide.to_json("cpu")]]
    tried.clear()
    # What is wrong with another run is no matter of this one.
    third = Workload(width=32)
    assert machine.load_engine("fused", third, "cpu", [wide, broken]) == Fused()
    assert tried == [[third.to_json("cpu"), broken.to_json("cpu")], [third.to_json("cpu")]]


def test_an_interrupted_rehearsal_is_not_done(children, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    options = resolve(parse([*TUNED, "--task", "fit"]), (256, 256))
    monkeypatch.setattr(machine, "run_interruptibly", interrupt)
    with pytest.raises(KeyboardInterrupt):
        machine.rehearse(PROGRAM, [(options, 8)], "cpu", "fp32")
    monkeypatch.setattr(
        machine,
        "run_interruptibly",
        lambda arguments, read: children.append(arguments) or types.SimpleNamespace(returncode=0),
    )
    machine.rehearse(PROGRAM, [(options, 8)], "cpu", "fp32")
    assert len(children) == 1


def test_a_short_run_is_not_rehearsed(children):
    options = parse([*TUNED, "--sidelength", "24", "--epochs", "3"])
    machine.rehearse(PROGRAM, [(options, 8)], "cpu", "fp32")
    assert not children


def test_a_rehearsal_that_fails_is_no_failure(monkeypatch, tmp_path):
    arguments = ["--sidelength", "16", "--epochs", "1", "--hidden_features", "8"]
    monkeypatch.setattr(machine, "WORTH", 1)
    monkeypatch.setattr(environment, "private_folder", lambda: tmp_path)
    monkeypatch.setattr(machine, "as_arguments", lambda _: ["--no_such_option"])
    assert call(*arguments, "--output_dir", tmp_path / "out").returncode == 0
