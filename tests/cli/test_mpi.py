"""Two processes on one machine give what one gives, and end together whatever happens."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(
    not (shutil.which("mpirun") and shutil.which("mpicc")),
    reason="needs mpirun and mpicc (Debian: openmpi-bin, libopenmpi-dev)",
)
# As main.py, but for a state every tenth of a second; each process leaves its number, and only the
# first one can read pictures.
PROGRAM = (
    "import os, pathlib, sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from siren import images; from siren.training import checkpoint; "
    "rank = os.environ.get('OMPI_COMM_WORLD_RANK', '0'); "
    "pathlib.Path(sys.argv.pop(1), 'pid-' + rank).write_text(str(os.getpid())); "
    "images.read_image = images.read_image if rank == '0' else None; "
    "checkpoint.SAVE_EVERY = 0.1; import main; sys.exit(main.main())"
)
SMALL = ["--device", "cpu", "--hidden_features", "32", "--omega_0", "10"]
ENVIRONMENT = {
    **os.environ,
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMP_NUM_THREADS": "1",
}


def start(pids, *groups, folders=(".", ".")):
    """One process for each list of arguments of main.py, in one of ``folders``."""
    command = ["mpirun", "--oversubscribe"]
    for group, folder in zip(groups, folders):
        program = [sys.executable, "-c", PROGRAM, str(ROOT), str(pids)]
        command += ["-np", "1", "-wdir", str(folder), *program, *map(str, group), ":"]
    return subprocess.Popen(
        command[:-1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env=ENVIRONMENT,
    )


def finish(process):
    out, err = process.communicate(timeout=500)
    return process.returncode, out, err


def parameters(folder):
    with np.load(folder / "network.npz") as file:
        names = sorted(name for name in file.files if name.startswith(("weight", "bias")))
        return np.concatenate([file[name].ravel() for name in names])


@pytest.mark.parametrize(
    "options",
    [
        ["--task", "fit", "--sidelength", "21"],
        ["--task", "fit", "--sidelength", "21", "--batch_points", "101"],
        ["--task", "inpaint", "--recipe", "tuned", "--sidelength", "24", "--points", "201"],
        ["--task", "poisson", "--recipe", "tuned", "--sidelength", "20"],
        ["--task", "edit", "--sidelength", "20"],
    ],
    ids=" ".join,
)
def test_two_processes_are_as_good_as_one(tmp_path, options):
    for count in (1, 2):
        group = [*SMALL, *options, "--epochs", "8", "--output_dir", tmp_path / str(count)]
        status, out, err = finish(start(tmp_path, *[group] * count))
        assert status == 0, err
        assert out.count("output: PSNR") == out.count("epoch 8/8") == 1
    one, two = (parameters(tmp_path / name) for name in "12")
    assert np.abs(one - two).max() < 1e-5 * np.abs(one).max()
    scores = [json.loads((tmp_path / n / "metrics.json").read_text())["psnr"] for n in "12"]
    assert scores[1] == pytest.approx(scores[0], abs=0.01)
    assert {p.name for p in (tmp_path / "1").iterdir()} == {
        p.name for p in (tmp_path / "2").iterdir()
    }


@pytest.mark.parametrize(
    ("one", "other", "named"),
    [
        (["--lr", "1e-3"], ["--lr", "1e-4"], "--lr;"),
        ([], ["--seed", "3", "--batch_points", "9"], "--seed"),
        ([], ["--input_path", "data/flower.jpg"], "--input_path"),
    ],
)
def test_processes_that_disagree_are_refused(tmp_path, one, other, named):
    common = [*SMALL, "--sidelength", "16", "--epochs", "3", "--output_dir", tmp_path / "out"]
    status, _, err = finish(start(tmp_path, common + one, common + other))
    assert status == 2
    assert "the processes do not agree on" in err
    assert named in err
    assert "Traceback" not in err


def test_pictures_that_differ_are_refused(tmp_path):
    """As on two machines: the name is the same."""
    folders = tmp_path / "one", tmp_path / "other"
    for folder, name in zip(folders, ("camera.png", "chelsea.png")):
        folder.mkdir()
        shutil.copy(ROOT / "data" / name, folder / "picture.png")
    group = [*SMALL, "--sidelength", "16", "--epochs", "3", "--output_dir", tmp_path / "out"]
    group += ["--input_path", "picture.png"]
    status, _, err = finish(start(tmp_path, group, group, folders=folders))
    assert status == 2
    assert "the processes do not agree on the picture of --input_path;" in err


LONG = [*SMALL, "--task", "inpaint", "--recipe", "tuned", "--sidelength", "24", "--points", "200"]


def begun(tmp_path, folder, epochs, *more):
    """Two processes, once a state is there; (mpirun, their numbers)."""
    group = [*LONG, "--epochs", epochs, "--output_dir", folder, *more]
    process = start(tmp_path, group, group)
    for _ in range(3000):
        if (folder / "state.npz").exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    assert process.poll() is None, process.communicate()
    return process, [int((tmp_path / f"pid-{rank}").read_text()) for rank in (0, 1)]


def alive(pid):
    """Whether a process runs: one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_ends_with_any_of_its_processes_and_goes_on(tmp_path, number):
    folder, epochs = tmp_path / "out", 400
    process, pids = begun(tmp_path, folder, epochs)
    os.kill(pids[1], number)
    status, _, err = finish(process)
    for _ in range(300):  # mpirun does not wait for what it kills
        if not any(map(alive, pids)):
            break
        time.sleep(0.1)
    assert not any(map(alive, pids))
    if number == signal.SIGKILL:
        assert status not in (0, None)
        assert "signal 9" in err
    else:
        assert status == 130
        assert "interrupted" in err
        assert "--resume goes on" in err
    group = [*LONG, "--epochs", epochs, "--output_dir"]
    status, out, err = finish(start(tmp_path, *[[*group, folder, "--resume"]] * 2))
    assert status == 0, err
    assert out.count("resumed at epoch") == 1
    status, _, err = finish(start(tmp_path, *[[*group, tmp_path / "whole"]] * 2))
    assert status == 0, err
    assert (parameters(folder) == parameters(tmp_path / "whole")).all()


def test_a_process_that_fails_ends_the_others(tmp_path):
    common = [*SMALL, "--sidelength", "16", "--epochs", "3", "--output_dir", tmp_path / "out"]
    status, _, err = finish(start(tmp_path, common, [*common, "--input_path", tmp_path / "none"]))
    assert status == 2
    assert "does not exist" in err


def test_resuming_a_finished_run_ends_all_processes(tmp_path):
    group = [*SMALL, "--sidelength", "16", "--epochs", "3", "--output_dir", tmp_path / "out"]
    assert finish(start(tmp_path, group, group))[0] == 0
    group.append("--resume")
    status, out, err = finish(start(tmp_path, group, group))
    assert status == 0, err
    assert "resume" in out
    assert "Traceback" not in err
