"""The run in miniature that compiles what a run needs."""

import json

import pytest
from program import ROOT, call

import main
from siren.cli import rehearsal
from siren.cli.options import parse
from siren.cli.recipes import fill_in

TUNED = ["--recipe", "tuned", "--hidden_features", "8", "--device", "cpu"]


@pytest.fixture
def children(monkeypatch, tmp_path):
    """The values that children would be given; stamps go to a folder of the test's own."""
    given = []
    monkeypatch.setattr(rehearsal, "private_folder", lambda: tmp_path)
    monkeypatch.setattr(
        rehearsal, "run_interruptibly", lambda arguments, read: given.append(arguments[-1])
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
def test_a_run_is_rehearsed_once_on_noise(children, arguments, monkeypatch):
    options = parse([*TUNED, *arguments])
    options.input_path = ROOT / "data" / "camera.png"
    options.precision = "fp32"
    fill_in(options, (256, 256), 65536)
    rehearsal.rehearse(options, "cpu", 16, "stamp")
    rehearsal.rehearse(options, "cpu", 16, "stamp")
    assert len(children) == 1
    rehearsal.rehearse(options, "cpu", 8, "stamp")
    rehearsal.rehearse(options, "cpu", 16, "another stamp")
    rehearsal.rehearse(options, "cuda", 16, "the stamp of a GPU")
    assert [json.loads(child)["side"] for child in children] == [16, 16, 16, 256]

    seen = []

    def run(small, stop):
        seen.append(main.run(small, stop))
        metrics = json.loads((small.output_dir / "metrics.json").read_text())
        assert (metrics["height"], metrics["width"]) == (16, 16)
        assert (small.output_dir / "output.png").read_bytes()[24] == 16

    monkeypatch.setattr("siren.cli.machine.rehearse", lambda *_: None)
    rehearsal.perform(children[0], run)
    assert seen[0].status == 0


def test_an_interrupted_rehearsal_is_not_done(children, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    options = parse([*TUNED, "--task", "fit"])
    monkeypatch.setattr(rehearsal, "run_interruptibly", interrupt)
    with pytest.raises(KeyboardInterrupt):
        rehearsal.rehearse(options, "cpu", 8, "stamp")
    monkeypatch.setattr(
        rehearsal, "run_interruptibly", lambda arguments, read: children.append(arguments)
    )
    rehearsal.rehearse(options, "cpu", 8, "stamp")
    assert len(children) == 1


def test_a_short_run_is_not_rehearsed(children):
    rehearsal.rehearse(parse([*TUNED, "--sidelength", "24", "--epochs", "3"]), "cpu", 8, "stamp")
    assert not children


def test_a_rehearsal_that_fails_is_no_failure(monkeypatch, tmp_path):
    arguments = ["--sidelength", "16", "--epochs", "1", "--hidden_features", "8"]
    monkeypatch.setattr(rehearsal, "WORTH", 1)
    monkeypatch.setattr(rehearsal, "private_folder", lambda: tmp_path)
    monkeypatch.setattr(rehearsal, "CODE", "raise SystemExit(1)")
    assert call(*arguments, "--output_dir", tmp_path / "out").returncode == 0
