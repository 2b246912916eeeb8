"""--task all: what is said before, what runs, and the table at the end."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from program import ROOT, call, run

from siren.cli import machine, program
from siren.cli.errors import Outcome, Problem
from siren.cli.options import parse
from siren.engine import reference
from siren.text import duration

SMALL = ["--sidelength", "16", "--epochs", "2", "--hidden_features", "8"]


def test_four_experiments_are_announced_run_and_summed_up(tmp_path):
    result = run("--task", "all", *SMALL, "--output_dir", tmp_path)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert "one after the other: inpaint, fit, edit, poisson; in " in result.stdout
    assert "./run.sh tuned takes far less time" in result.stdout
    assert re.search(r"epoch 2/2 .* left\n", result.stdout)
    head, *table, page = lines[-6:]
    assert page == f"all runs to look at: {tmp_path}/index.html"
    assert "poisson" in (tmp_path / "index.html").read_text()
    assert head.split() == ["task", "PSNR", "SSIM", "seconds", "look", "at"]
    for line, task in zip(table, ("inpaint", "fit", "edit", "poisson")):
        metrics = json.loads((tmp_path / task / "metrics.json").read_text())
        assert line.split()[:2] == [task, f"{metrics['psnr']:.2f}"]
        assert f"{task}/panel.png" in line

    again = call("--task", "all", *SMALL, "--output_dir", tmp_path, "--resume")
    assert again.returncode == 0
    assert again.stdout.splitlines()[-6:] == lines[-6:]


def test_bad_input_is_found_before_the_first_training(tmp_path):
    (tmp_path / "bad.png").write_text("no picture")
    picture = ROOT / "data" / "camera.png"
    arguments = ["--input_path", picture, "--ot_image_path", tmp_path / "bad.png"]
    result = call("--task", "all", *SMALL, "--output_dir", tmp_path / "out", *arguments)
    assert result.returncode == 2 and "bad.png" in result.stderr
    assert not (tmp_path / "out").exists()
    (tmp_path / "several").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "several" / name).write_bytes(picture.read_bytes())
    arguments[1] = tmp_path / "several"
    result = call("--task", "all", *SMALL, "--output_dir", tmp_path / "out", *arguments)
    assert result.returncode == 2 and "bad.png" in result.stderr
    assert not (tmp_path / "out").exists()


def experiments(tmp_path, *arguments):
    return parse(["--task", "all", *SMALL, "--output_dir", str(tmp_path), *arguments])


def test_a_failure_does_not_stop_the_others(tmp_path, capsys):
    def train_picture(session):
        if session.options.task == "fit":
            raise Problem("something is wrong")
        return Outcome(3 if session.options.task == "edit" else 0, "diverged", 20.0, 0.5, 1.0)

    assert program.train(experiments(tmp_path), train_picture) == 2
    said = capsys.readouterr()
    assert "error: fit: something is wrong" in said.err
    assert [line.split()[0] for line in said.out.splitlines()[-5:-1]] == [
        *("inpaint", "fit", "edit", "poisson")
    ]


def test_what_all_need_is_compiled_before_the_first(monkeypatch, tmp_path):
    """Kernels and operations compile at the same time; the runs that follow find them."""
    tried, rehearsed = [], []

    def load_engine(name, workload, device, later):
        tried.append([each.losses for each in later])
        return reference

    monkeypatch.setattr(machine, "load_engine", load_engine)
    monkeypatch.setattr(
        machine,
        "rehearse",
        lambda program, runs, device, precision: rehearsed.append([o.task for o, _ in runs]),
    )
    assert call("--task", "all", *SMALL, "--output_dir", tmp_path).returncode == 0
    assert tried == [[(0,), (1,), (2,)], [], [], []]
    order = ["inpaint", "fit", "edit", "poisson"]
    assert rehearsed == [order, ["fit"], ["edit"], ["poisson"]]
    shutil.rmtree(tmp_path / "edit")
    shutil.rmtree(tmp_path / "poisson")
    assert call("--task", "all", *SMALL, "--output_dir", tmp_path, "--resume").returncode == 0
    assert tried[4:] == [[(2,)], []] and rehearsed[4:] == [["edit", "poisson"], ["poisson"]]
    assert call(*SMALL, "--output_dir", tmp_path / "alone").returncode == 0
    assert tried[6:] == [[]] and rehearsed[6:] == [["fit"]]


def test_ctrl_c_ends_all_of_them(tmp_path):
    arguments = ["--task", "all", "--epochs", "100000", "--output_dir", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), *arguments, "--sidelength", "16"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        for line in process.stdout:
            if line.startswith("inpaint:"):
                break
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert rest.count("not begun") == 3
    assert (tmp_path / "inpaint" / "panel.png").exists()
    assert not (tmp_path / "fit").exists()


# ---- the page ---------------------------------------------------------------------------------


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    """A folder that takes the place of the program's own."""
    monkeypatch.setattr("siren.cli.several.OUTPUTS", tmp_path / "outputs")
    return tmp_path / "outputs"


def test_a_run_in_outputs_rewrites_the_page_of_all(outputs, tmp_path):
    assert call(*SMALL, "--output_dir", outputs / "a" / "b").returncode == 0
    assert call(*SMALL, "--output_dir", outputs / "c", "--task", "poisson").returncode == 0
    page = (outputs / "index.html").read_text()
    assert "a/b/panel.png" in page and "c/panel.png" in page
    assert call(*SMALL, "--output_dir", tmp_path / "elsewhere").returncode == 0
    assert not (tmp_path / "elsewhere" / "index.html").exists()
    assert (outputs / "index.html").read_text() == page


def test_there_is_no_page_where_nothing_was_written(outputs, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("siren.cli.machine.start_jittor", interrupt)
    for folder in (outputs, tmp_path / "elsewhere"):
        result = call("--task", "all", *SMALL, "--output_dir", folder)
        assert result.returncode == 130
        assert "cannot be written" not in result.stderr and "to look at:" not in result.stdout
        assert not folder.exists()


def test_a_page_of_the_user_is_left_alone(outputs):
    outputs.mkdir()
    (outputs / "index.html").write_text("<title>mine</title>")
    result = call(*SMALL, "--output_dir", outputs / "a")
    assert result.returncode == 0
    assert "index.html is not as this program wrote it" in result.stderr
    assert (outputs / "index.html").read_text() == "<title>mine</title>"


def test_durations_are_words():
    assert duration(59.4) == "59 s"
    assert duration(61) == "1 min 01 s"
