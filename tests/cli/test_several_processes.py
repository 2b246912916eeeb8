"""Several pictures under mpirun: each process trains whole pictures, and one call reports all."""

import contextlib
import csv
import os
import signal
import sys
from pathlib import Path

import numpy as np
import program
import pytest
from PIL import Image
from program import needs_mpirun, wait_for

from siren.cli import errors
from siren.runtime import processes
from siren.runtime.cuda import Cuda

ROOT = Path(__file__).resolve().parents[2]
MPIRUN = ["mpirun", "--oversubscribe", "-np", "2"]
SMALL = ["--sidelength", "24", "--hidden_features", "32", "--device", "cpu", "--aspect", "keep"]
LONG = [*SMALL, "--epochs", "12000", "--preview_every", "100"]  # three seconds for the smallest
SIZES = {"a": (48, 20), "b": (48, 48), "c": (48, 30)}  # width, height; b, c, a take longest
LONGEST_FIRST = "bca"


def begin(launcher, *arguments):
    return program.begin([*launcher, sys.executable, ROOT / "main.py", *arguments])


def finish(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def own_lines(text):
    """The program's lines, without mpirun's remarks."""
    return [line for line in text.splitlines() if line.startswith("main.py:")]


def summary(folder):
    with (folder / "summary.csv").open() as file:
        return {row["folder"]: row["status"] for row in csv.DictReader(file)}


def network(folder):
    with np.load(folder / "network.npz") as file:
        return {name: file[name].tobytes() for name in file.files}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number, (name, size) in enumerate(SIZES.items()):
        pixels = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(folder / f"{name}.png")
    return folder


# ---- a call that runs to its end ----------------------------------------------------------------


@pytest.fixture(scope="module")
def together(photos, tmp_path_factory):
    """Two processes, whose last picture cannot have its folder; (folder, status, out, err)."""
    folder = tmp_path_factory.mktemp("together")
    (folder / "c").write_text("in the way")
    arguments = [*SMALL, "--epochs", 3, "--input_path", photos, "--output_dir", folder]
    return folder, *finish(begin(MPIRUN, *arguments))


@needs_mpirun
def test_each_network_is_the_one_trained_alone(together, photos, tmp_path):
    arguments = [*SMALL, "--epochs", 3, "--input_path", photos, "--output_dir", tmp_path]
    assert finish(begin([], *arguments))[0] == 0
    for name in "ab":
        assert network(together[0] / name) == network(tmp_path / name)
        files = [{p.name for p in (each / name).iterdir()} for each in (together[0], tmp_path)]
        assert files[0] == files[1]


@needs_mpirun
def test_a_picture_that_fails_does_not_stop_the_others(together):
    folder, status, _, err = together
    assert status == 2
    (line,) = own_lines(err)
    assert "c.png: --output_dir" in line
    assert "Traceback" not in err
    assert (folder / "c").read_text() == "in the way"
    statuses = summary(folder)
    assert list(statuses) == list("abc")
    assert statuses["a"] == statuses["b"] == "finished"
    assert statuses["c"].startswith("failed: --output_dir")


@needs_mpirun
def test_what_is_said_is_said_once(together):
    folder, _, out, _ = together
    begun = [line for line in out.splitlines() if line.startswith("== ")]
    assert [Path(line.split()[4]).stem for line in begun] == list(LONGEST_FIRST)
    assert [line.split(":")[0] for line in begun] == [f"== {n} of 3" for n in (1, 2, 3)]
    assert {line.rsplit("(", 1)[1] for line in begun} == {"process 0)", "process 1)"}
    for name in "ab":
        assert sum(f"{name}.png: finished, PSNR" in line for line in out.splitlines()) == 1
    assert out.count("PSNR    SSIM") == out.count("all runs to look at:") == 1
    assert {path.name for path in folder.iterdir()} == {*"abc", "summary.csv", "index.html"}


# ---- bad input ----------------------------------------------------------------------------------


@needs_mpirun
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (["--lr", "x"], "argument --lr"),
        pytest.param(["--input_path", "none.png"], "none.png", marks=pytest.mark.soak),
        (["--input_path", __file__], "test_several_processes.py"),
    ],
)
def test_bad_input_is_reported_once_before_anything_is_trained(photos, tmp_path, bad, message):
    arguments = [*SMALL, "--input_path", photos, "--output_dir", tmp_path / "o", *bad]
    status, out, err = finish(begin(MPIRUN, *arguments))
    assert status == 2
    (line,) = own_lines(err)
    assert message in line
    assert out == ""
    assert not (tmp_path / "o").exists()


# ---- calls that end early -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory):
    """The networks of calls that are not interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    assert finish(begin([], *LONG, "--input_path", photos, "--output_dir", folder))[0] == 0
    return {name: network(folder / name) for name in "abc"}


def children(parent):
    """The numbers of the running processes that ``parent`` has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if int(path.read_text().rsplit(")", 1)[1].split()[1]) == parent:
                found.append(int(path.parent.name))
    return found


def alive(pid):
    """Whether a process runs: one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def rank_1(mpirun):
    """(the process, its training process) of rank 1."""
    (rank,) = (
        pid
        for pid in children(mpirun.pid)
        if b"OMPI_COMM_WORLD_RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes()
    )
    (worker,) = (
        pid for pid in children(rank) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )
    return rank, worker


def begun(photos, folder):
    """Two processes, once both train; (mpirun, rank 1, its training process)."""
    process = begin(MPIRUN, *LONG, "--input_path", photos, "--output_dir", folder)
    previews = [folder / name / "preview.png" for name in LONGEST_FIRST[:2]]
    wait_for(lambda: all(path.exists() for path in previews) or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    return process, *rank_1(process)


def assert_resumes(photos, folder, whole):
    arguments = [*LONG, "--input_path", photos, "--output_dir", folder, "--resume"]
    status, _, err = finish(begin(MPIRUN, *arguments))
    assert status == 0, err
    assert summary(folder) == dict.fromkeys("abc", "finished")
    assert {name: network(folder / name) for name in "abc"} == whole


@pytest.mark.soak
@needs_mpirun
def test_sigterm_to_one_process_ends_all(photos, tmp_path, whole):
    process, rank, _ = begun(photos, tmp_path)
    os.kill(rank, signal.SIGTERM)
    status, _, err = finish(process)
    assert status == 130
    assert summary(tmp_path) == {"a": "not begun", "b": "interrupted", "c": "interrupted"}
    assert err.count("is saved; --resume goes on") == 2
    assert "1 of 3 not begun; --resume goes on" in err
    assert "Traceback" not in err
    assert_resumes(photos, tmp_path, whole)


@pytest.mark.soak
@needs_mpirun
def test_a_training_that_dies_costs_its_own_picture(photos, tmp_path, whole):
    process, _, worker = begun(photos, tmp_path)
    os.kill(worker, signal.SIGKILL)
    status, _, err = finish(process)
    assert status == 1
    statuses = summary(tmp_path)
    (dead,) = (name for name in "abc" if statuses[name] != "finished")
    assert statuses[dead] == "failed: its process ended (signal 9)"
    (line,) = own_lines(err)
    assert f"{dead}.png: its process ended" in line
    assert_resumes(photos, tmp_path, whole)


@needs_mpirun
@pytest.mark.soak
@pytest.mark.parametrize("how", ["Ctrl-C", "a process killed", "mpirun killed"])
def test_all_end_together(photos, tmp_path, whole, how):
    process, rank, worker = begun(photos, tmp_path)
    pids = [*(pid for each in children(process.pid) for pid in (each, *children(each)))]
    assert {rank, worker} < set(pids)
    if how == "Ctrl-C":
        process.send_signal(signal.SIGINT)
    else:
        os.kill(rank if how == "a process killed" else process.pid, signal.SIGKILL)
    status, _, err = finish(process)
    assert status not in (0, None)
    assert "Traceback" not in err
    wait_for(lambda: not any(map(alive, pids)))
    assert_resumes(photos, tmp_path, whole)


# ---- without mpirun -----------------------------------------------------------------------------


@contextlib.contextmanager
def without_mpirun(monkeypatch, rank, cuda):
    """One of three processes, on a machine with ``cuda``, after it has left mpirun."""
    before = dict(os.environ)
    monkeypatch.setattr(processes, "find_cuda", lambda: cuda)
    for name, value in (("SIZE", 3), ("RANK", rank), ("LOCAL_SIZE", 3), ("LOCAL_RANK", rank)):
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", str(value))
    monkeypatch.delenv("device_id", raising=False)
    monkeypatch.delenv("nvcc_path", raising=False)
    try:
        processes.leave_mpirun("auto")
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.mark.parametrize(
    ("visible", "rank", "expected"),
    [(None, 1, "1"), (None, 2, "0"), ("5,7", 1, "7"), ("GPU-ab,GPU-cd", 2, "GPU-ab")],
)
def test_each_process_sees_its_own_gpu(monkeypatch, visible, rank, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with without_mpirun(monkeypatch, rank, Cuda(nvcc="nvcc", gpus=2)):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == expected
        assert int(os.environ["OMP_NUM_THREADS"]) >= 1
        assert (processes.rank(), processes.world_size()) == (0, 1)
        assert not processes.under_mpirun()


@pytest.mark.parametrize(("rank", "looks"), [(0, True), (1, False), (2, False)])
def test_one_process_looks_for_a_gpu_where_there_is_none(monkeypatch, rank, looks):
    with without_mpirun(monkeypatch, rank, Cuda(reason="there is none")):
        assert ("nvcc_path" not in os.environ) == looks


def test_a_single_process_speaks_at_once(monkeypatch):
    monkeypatch.setattr(errors.time, "sleep", None)
    monkeypatch.delenv("OMPI_COMM_WORLD_SIZE", raising=False)
    errors.let_rank_0_speak()
