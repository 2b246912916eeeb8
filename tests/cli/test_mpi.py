"""Two processes on one machine give what one gives, and end together whatever happens."""

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from program import PAUSING, begin, call, finish, needs_mpirun, state, wait_for

ROOT = Path(__file__).resolve().parents[2]
pytestmark = needs_mpirun
# As main.py, but for a state after every epoch; each process leaves its number, and only the first
# one can read pictures.
PROGRAM = (
    """
import os, pathlib, sys
sys.path.insert(0, sys.argv[1])
from siren import images
from siren.training import checkpoint
rank = os.environ.get("OMPI_COMM_WORLD_RANK", "0")
pathlib.Path(sys.argv.pop(2), "pid-" + rank).write_text(str(os.getpid()))
images.decode_image = images.decode_image if rank == "0" else None
checkpoint.SAVE_EVERY = -1
"""
    + PAUSING
)
SMALL = ["--device", "cpu", "--hidden_features", "32", "--omega_0", "10"]


def start(pids, *groups, folders=(".", "."), pauses=(-1, -1)):
    """One process for each list of arguments of main.py, in one of ``folders``.

    pids    folder for their numbers
    pauses  the epoch before which each pauses, or -1
    """
    command = ["mpirun", "--oversubscribe"]
    for group, folder, pause in zip(groups, folders, pauses):
        program = [sys.executable, "-c", PROGRAM, str(ROOT), str(pids), str(pause)]
        command += ["-np", "1", "-wdir", str(folder), *program, *map(str, group), ":"]
    return begin(command[:-1])


def parameters(folder):
    with np.load(folder / "network.npz") as file:
        names = sorted(name for name in file.files if name.startswith(("weight", "bias")))
        return np.concatenate([file[name].ravel() for name in names])


FIT = [*SMALL, "--task", "fit", "--sidelength", "21", "--epochs", "8"]


@pytest.fixture(scope="module")
def fit(tmp_path_factory):
    """A folder with the runs of one and of two processes, in folders of that name."""
    folder = tmp_path_factory.mktemp("fit")
    for count in (1, 2):
        status, out, err = finish(
            start(folder, *[[*FIT, "--output_dir", folder / str(count)]] * count)
        )
        assert status == 0, err
        assert out.count("output: PSNR") == out.count("epoch 8/8") == 1
    return folder


def as_good_as_one(folder):
    """The runs in the folders ``1`` and ``2`` have the same result."""
    one, two = (parameters(folder / name) for name in "12")
    assert np.abs(one - two).max() < 1e-5 * np.abs(one).max()
    scores = [json.loads((folder / n / "metrics.json").read_text())["psnr"] for n in "12"]
    assert scores[1] == pytest.approx(scores[0], abs=0.01)
    assert {p.name for p in (folder / "1").iterdir()} == {p.name for p in (folder / "2").iterdir()}


def test_two_processes_are_as_good_as_one(fit):
    as_good_as_one(fit)


@pytest.mark.parametrize(
    "options",
    [
        ["--task", "fit", "--sidelength", "21", "--batch_points", "101"],
        pytest.param(["--task", "edit", "--sidelength", "20"], marks=pytest.mark.soak),
        pytest.param(
            ["--task", "poisson", "--recipe", "tuned", "--sidelength", "20"],
            marks=pytest.mark.soak,
        ),
    ],
    ids=" ".join,
)
def test_two_processes_are_as_good_as_a_call_without_mpirun(tmp_path, options):
    group = [*SMALL, *options, "--epochs", "8", "--output_dir"]
    one = call(*group, tmp_path / "1")
    assert one.returncode == 0, one.stderr
    status, out, err = finish(start(tmp_path, *[[*group, tmp_path / "2"]] * 2))
    assert status == 0, err
    for said in (one.stdout, out):
        assert said.count("output: PSNR") == said.count("epoch 8/8") == 1
    as_good_as_one(tmp_path)


TINY = [*SMALL, "--sidelength", "16", "--epochs", "3", "--output_dir"]


def test_rank_0_says_what_is_done(tmp_path):
    common = [*TINY, tmp_path / "out"]
    status, _, err = finish(start(tmp_path, common, [*common, "--lr", "1e-3", "--seed", "3"]))
    assert status == 0, err
    assert call(*TINY, tmp_path / "alone").returncode == 0
    np.testing.assert_allclose(
        *(np.load(tmp_path / name / "network.npz")["weight_0"] for name in ("out", "alone")),
        atol=1e-5,
    )


def test_a_process_that_fails_ends_the_others(tmp_path):
    common = [*TINY, tmp_path / "out"]
    status, _, err = finish(start(tmp_path, [*common, "--input_path", tmp_path / "none"], common))
    assert status == 2
    assert "does not exist" in err


INPAINT = [*SMALL, "--task", "inpaint", "--recipe", "tuned", "--sidelength", "24"]
INPAINT += ["--points", "201", "--epochs", "10", "--output_dir"]


def begun(tmp_path, folder):
    """Two processes, of which the second one pauses in the middle; (mpirun, their numbers)."""
    process = start(tmp_path, *[[*INPAINT, folder]] * 2, pauses=(-1, 5))
    number = tmp_path / "pid-1"

    def pauses():
        return (folder / "state.npz").exists() and state(number.read_text()) == "T"

    wait_for(lambda: pauses() or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    return process, [int((tmp_path / f"pid-{rank}").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run of two processes that was not interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "2"
    status, _, err = finish(start(folder.parent, *[[*INPAINT, folder]] * 2))
    assert status == 0, err
    return folder


def test_two_processes_are_as_good_as_a_call_with_a_prior(whole):
    assert call(*INPAINT, whole.with_name("1")).returncode == 0
    as_good_as_one(whole.parent)


@pytest.mark.soak
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_ends_with_any_of_its_processes_and_goes_on(tmp_path, whole, number):
    folder = tmp_path / "out"
    process, pids = begun(tmp_path, folder)
    os.kill(pids[1], number)
    if number != signal.SIGKILL:  # which does not wait for it
        os.kill(pids[1], signal.SIGCONT)
    status, _, err = finish(process)
    wait_for(lambda: all(state(pid) in "ZX" for pid in pids))  # mpirun does not
    if number == signal.SIGKILL:
        assert status not in (0, None)
        assert "signal 9" in err
    else:
        assert status == 130
        assert "interrupted" in err
        assert "--resume goes on" in err
    group = [*INPAINT, folder, "--resume"]
    status, out, err = finish(start(tmp_path, group, group))
    assert status == 0, err
    assert out.count("resumed at epoch") == 1
    assert (parameters(folder) == parameters(whole)).all()


def test_resuming_a_finished_run_ends_all_processes(tmp_path, fit):
    group = [*FIT, "--output_dir", fit / "2", "--resume"]
    status, out, err = finish(start(tmp_path, group, group))
    assert status == 0, err
    assert "resume" in out
    assert "Traceback" not in err
