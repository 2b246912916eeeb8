"""Disks that are full or read-only, as the file system itself has it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest
from PIL import Image
from program import ROOT, call, run

from siren.npz import read_network

PAGE = 4096
FIT = ["--sidelength", "24", "--hidden_features", "32", "--device", "cpu", "--epochs", "3"]


@pytest.fixture
def disk(tmp_path):
    """A small file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk, pages):
    """Leave room for so many pages."""
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(PAGE))
        except OSError:
            file.truncate(file.tell() - pages * PAGE)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def complains(result, *statuses):
    assert result.returncode in statuses
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("main.py"))
    assert "Traceback" not in result.stderr
    return line


@pytest.mark.parametrize(("pages", "status"), [(0, 2), (1, 1), (3, 1)])
def test_a_full_disk_while_results_are_saved(disk, pages, status):
    folder = disk / "run"
    assert call(*FIT, "--output_dir", folder).returncode == 0
    before = content(folder)
    fill(disk, pages)
    start = run if pages == 1 else call
    line = complains(start(*FIT, "--seed", 7, "--output_dir", folder), status)
    assert str(folder) in line
    assert "No space left" in line
    after = content(folder)
    assert after.keys() == before.keys()
    assert after["network.npz"] == before["network.npz"]
    if pages == 0:
        assert after == before
    read_network(folder / "network.npz")
    for path in folder.glob("*.png"):
        Image.open(path).load()


def test_a_full_disk_and_nothing_there_before(disk):
    fill(disk, 2)
    line = complains(call(*FIT, "--output_dir", disk / "new" / "run"), 1, 2)
    assert "No space left" in line
    left = disk / "new" / "run"
    assert not left.exists() or not [p for p in left.iterdir() if p.name.startswith(".")]


def test_a_full_disk_while_it_renders(disk, tmp_path):
    assert call(*FIT, "--output_dir", tmp_path / "trained").returncode == 0
    network = ["--task", "render", "--network_path", tmp_path / "trained" / "network.npz"]
    folder = disk / "drawn"
    assert call(*network, "--sidelength", 24, "--output_dir", folder).returncode == 0
    before = content(folder)
    fill(disk, 2)
    line = complains(run(*network, "--sidelength", 512, "--output_dir", folder), 1)
    assert "No space left" in line
    assert content(folder) == before


def test_a_full_disk_while_several_are_trained(disk):
    pictures = ROOT / "data" / "camera.png", ROOT / "data" / "rocket.jpg"
    fill(disk, 3)
    result = call(*FIT, "--input_path", *pictures, "--output_dir", disk / "all")
    assert result.returncode in (1, 2)
    assert "Traceback" not in result.stderr
    assert "No space left" in result.stderr
    assert not list((disk / "all").rglob(".*"))


def test_a_read_only_file_system_even_for_root(disk, tmp_path):
    assert call(*FIT, "--output_dir", disk / "run").returncode == 0
    before = content(disk / "run")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    render = ["--task", "render", "--network_path", disk / "run" / "network.npz"]
    for arguments in (FIT, render):
        for folder in (disk / "run", disk / "new"):
            start = run if arguments is FIT else call
            result = start(*arguments, "--output_dir", folder)
            line = complains(result, 2)
            assert "--output_dir" in line
            assert "Read-only file system" in line
            assert result.stdout == ""
    assert content(disk / "run") == before
    assert call(*render, "--sidelength", 24, "--output_dir", tmp_path / "out").returncode == 0


@pytest.mark.parametrize("name", ["output.png", "network.npz", "metrics.json", "state.npz"])
def test_a_folder_where_a_result_goes(tmp_path, name):
    (tmp_path / name).mkdir()
    result = call(*FIT, "--output_dir", tmp_path)
    assert f"{name} is a folder" in complains(result, 2)
    assert result.stdout == ""  # it was found before anything was trained
    assert (tmp_path / name).is_dir()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


# As main.py, but one function does something else: argv has ROOT, its module, name, a statement.
CHANGED = """
import importlib, os, signal, sys
root, module, name, statement = (sys.argv.pop(1) for _ in range(4))
sys.path.insert(0, root)
def changed(*arguments, **options):
    exec(statement)
setattr(importlib.import_module(module), name, changed)
import main
sys.exit(main.main())
"""


def with_change(function, statement, *arguments):
    module, name = function.rsplit(".", 1)
    command = [sys.executable, "-c", CHANGED, ROOT, module, name, statement, *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True)


@pytest.mark.parametrize(
    "function",
    ["siren.solvers.interpolate", "siren.metrics.ssim", "siren.output.results.draw_result"],
)
def test_a_crash_after_training_costs_no_network(function, tmp_path):
    inpaint = [*FIT, "--task", "inpaint", "--points", "100", "--output_dir", tmp_path / "a"]
    result = with_change(function, "os.kill(os.getpid(), signal.SIGKILL)", *inpaint)
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert read_network(tmp_path / "a" / "network.npz").shape == (24, 24)
    assert json.loads((tmp_path / "a" / "metrics.json").read_text())["ended"] == "interrupted"
    assert len((tmp_path / "a" / "history.csv").read_text().splitlines()) == 5  # and what they mean
    result = call(*inpaint)  # and the folder is still one of ours
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "a" / "metrics.json").read_text())["ended"] == "finished"


def test_a_baseline_that_fails_is_left_out_and_told(tmp_path):
    inpaint = [*FIT, "--task", "inpaint", "--points", "100", "--output_dir", tmp_path / "a"]
    statement = "raise ArithmeticError('no such surface')"
    result = with_change("siren.solvers.interpolate", statement, *inpaint)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("no such surface") == 3
    metrics = json.loads((tmp_path / "a" / "metrics.json").read_text())
    assert metrics["ended"] == "finished" and (tmp_path / "a" / "panel.png").exists()
