"""Several pictures under mpirun: rank 0 trains each in one of its child processes."""

import os
import signal
import sys
from argparse import Namespace
from pathlib import Path

import program
import pytest
from program import call, draw, finish, needs_mpirun, network, state, statuses, wait_for

from siren.cli import errors, workers
from siren.cli.errors import INTERRUPTION, Outcome
from siren.cli.several import Run
from siren.runtime import processes
from siren.runtime.cuda import Cuda
from siren.signals import Stop

ROOT = Path(__file__).resolve().parents[2]
MPIRUN = ["mpirun", "--oversubscribe", "-np", "2"]
SMALL = ["--sidelength", "24", "--hidden_features", "32", "--device", "cpu", "--aspect", "keep"]
LONG = [*SMALL, "--epochs", "12000", "--preview_every", "100"]  # three seconds for the smallest
SIZES = {"a": (48, 20), "b": (48, 48), "c": (48, 30)}  # width, height; b, c, a take longest
LONGEST_FIRST = "bca"


def begin(*arguments, launcher=MPIRUN):
    return program.begin([*launcher, sys.executable, ROOT / "main.py", *arguments])


def own_lines(text):
    """The program's lines, without mpirun's remarks."""
    return [line for line in text.splitlines() if line.startswith("main.py:")]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number, (name, size) in enumerate(SIZES.items()):
        draw(folder / f"{name}.png", size, number)
    return folder


@needs_mpirun
def test_two_processes_train_each_picture_as_one_would_and_say_all_once(photos, tmp_path):
    alone, folder = tmp_path / "alone", tmp_path / "together"
    arguments = [*SMALL, "--epochs", 3, "--input_path", photos, "--output_dir"]
    assert finish(begin(*arguments, alone, launcher=[]))[0] == 0
    folder.mkdir()
    (folder / "c").write_text("in the way")
    status, out, err = finish(begin(*arguments, folder))

    assert status == 2
    (line,) = own_lines(err)
    assert "c.png: --output_dir" in line
    assert "Traceback" not in err
    assert (folder / "c").read_text() == "in the way"
    assert list(statuses(folder)) == list("abc")
    assert statuses(folder).pop("c").startswith("failed: --output_dir")

    begun = [line for line in out.splitlines() if line.startswith("== ")]
    assert [Path(line.split()[4]).stem for line in begun] == list(LONGEST_FIRST)
    assert [line.split(":")[0] for line in begun] == [f"== {n} of 3" for n in (1, 2, 3)]
    assert {line.rsplit("(", 1)[1] for line in begun} == {"process 0)", "process 1)"}
    assert out.count("PSNR    SSIM") == out.count("all runs to look at:") == 1
    assert {path.name for path in folder.iterdir()} == {*"abc", "summary.csv", "index.html"}
    for name in "ab":
        assert statuses(folder)[name] == "finished"
        assert out.count(f"{name}.png: finished, PSNR") == 1
        assert network(folder / name) == network(alone / name)
        assert {p.name for p in (folder / name).iterdir()} == {
            p.name for p in (alone / name).iterdir()
        }


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
    status, out, err = finish(begin(*arguments))
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
    arguments = [*LONG, "--input_path", photos, "--output_dir", folder]
    assert finish(begin(*arguments, launcher=[]))[0] == 0
    return {name: network(folder / name) for name in "abc"}


def running(pid):
    return state(pid) not in "ZX"


def children(pid):
    """The numbers of the processes that this one has started."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(number) for task in tasks for number in task.read_text().split()]


@pytest.mark.soak
@needs_mpirun
@pytest.mark.parametrize(
    ("whom", "number"),
    [
        *(("mpirun", signal.SIGINT), ("mpirun", signal.SIGKILL)),
        *(("rank 0", signal.SIGTERM), ("rank 0", signal.SIGKILL)),
        *(("a training", signal.SIGTERM), ("a training", signal.SIGKILL)),
    ],
)
def test_a_call_that_ends_early_goes_on(photos, tmp_path, whole, whom, number):
    arguments = [*LONG, "--input_path", photos, "--output_dir", tmp_path]
    mpirun = begin(*arguments)
    previews = [tmp_path / name / "preview.png" for name in LONGEST_FIRST[:2]]
    wait_for(lambda: all(path.exists() for path in previews) or mpirun.poll() is not None)
    assert mpirun.poll() is None, mpirun.communicate()
    (rank_0,) = filter(running, children(mpirun.pid))  # the other one has left
    pids = children(rank_0)
    training = [p for p in pids if b"spawn_main" in Path(f"/proc/{p}/cmdline").read_bytes()]
    assert len(training) == 2

    os.kill({"mpirun": mpirun.pid, "rank 0": rank_0, "a training": training[1]}[whom], number)
    status, _, err = finish(mpirun)
    assert "Traceback" not in err
    wait_for(lambda: not any(map(running, [rank_0, *pids])))
    if whom == "mpirun" or (whom, number) == ("rank 0", signal.SIGKILL):
        assert status not in (0, None)
    elif number == signal.SIGKILL:
        assert status == 1
        (dead,) = (name for name in "abc" if statuses(tmp_path)[name] != "finished")
        assert statuses(tmp_path)[dead] == "failed: its process ended (signal 9)"
        (line,) = own_lines(err)
        assert f"{dead}.png: its process ended" in line
    else:
        assert status == 130
        ended = {"a": "not begun", "b": "interrupted", "c": "interrupted"}
        assert statuses(tmp_path) == ended
        assert err.count("is saved; --resume goes on") == 2
        assert "1 of 3 not begun; --resume goes on" in err

    status, _, err = finish(begin(*arguments, "--resume"))
    assert status == 0, err
    assert statuses(tmp_path) == dict.fromkeys("abc", "finished")
    assert {name: network(tmp_path / name) for name in "abc"} == whole


# ---- without mpirun -----------------------------------------------------------------------------


def fake(session):
    """In place of a training: what the name of the picture says."""
    name = session.options.input_path.name
    if name == "dies":
        os._exit(7)
    if name == "waits":
        wait_for(session.stop)
    return INTERRUPTION if name == "interrupts" else Outcome(0, "on GPU " + os.environ["GPU"])


@pytest.mark.parametrize(
    ("gpus", "names", "ended"),
    [
        ("01", ["short", "longer"], ["on GPU 1", "on GPU 0"]),
        ("0", ["dies", "b"], ["failed: its process ended (status 7)", "on GPU 0"]),
        ("01", ["interrupts", "waits", "x"], ["interrupted", "interrupted", None]),
    ],
)
def test_workers_one_for_each_gpu(monkeypatch, capsys, gpus, names, ended):
    monkeypatch.setattr(workers, "leave_mpirun", lambda _: [{"GPU": gpu} for gpu in gpus])
    monkeypatch.setattr(workers.signals, "end_with_parent", lambda: None)
    runs = [
        Run(Namespace(input_path=Path(n), device="cpu", verbose=False), n, pixels=len(n))
        for n in names
    ]
    stop = Stop()
    workers.train_on_workers(runs, fake, stop)
    assert [run.outcome and run.outcome.ended for run in runs] == ended
    assert stop() == ("interrupts" in names)
    assert capsys.readouterr().err.count("--resume continues it") == names.count("dies")


def as_rank(monkeypatch, rank, local_size=3):
    """Have this process look like one of three, of which so many are on this machine."""
    values = {"SIZE": 3, "RANK": rank, "LOCAL_SIZE": local_size, "LOCAL_RANK": rank}
    for name, value in values.items():
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", str(value))


@pytest.mark.parametrize(("rank", "local_size", "status"), [(0, 2, 2), (1, 3, 0)])
def test_rank_0_needs_one_machine_and_the_others_leave(
    monkeypatch, photos, tmp_path, rank, local_size, status
):
    as_rank(monkeypatch, rank, local_size)
    monkeypatch.setattr(os, "_exit", sys.exit)
    called = call(*SMALL, "--input_path", photos, "--output_dir", tmp_path / "o")
    assert (called.returncode, called.stdout) == (status, "")
    assert ("must all run on one machine" in called.stderr) == (rank == 0)
    assert not (tmp_path / "o").exists()


NO_GPU = [{}, {"nvcc_path": ""}, {"nvcc_path": ""}]  # the first process looks for one, and says so


@pytest.mark.parametrize(
    ("cuda", "visible", "expected"),
    [
        (Cuda(nvcc="nvcc", gpus=2), "", "0 1 0"),
        (Cuda(nvcc="nvcc", gpus=2), "5,7", "5 7 5"),
        (Cuda(nvcc="nvcc", gpus=2), "GPU-ab,GPU-cd", "GPU-ab GPU-cd GPU-ab"),
        (Cuda(reason="there is none"), "", NO_GPU),
    ],
)
def test_each_process_sees_its_own_gpu(monkeypatch, cuda, visible, expected):
    as_rank(monkeypatch, 0)
    monkeypatch.setattr(processes, "find_cuda", lambda: cuda)
    monkeypatch.setattr(processes, "_unbind", lambda: None)
    monkeypatch.setattr(os, "environ", dict(os.environ, CUDA_VISIBLE_DEVICES=visible))
    monkeypatch.delenv("device_id", raising=False)
    monkeypatch.delenv("nvcc_path", raising=False)
    children = processes.leave_mpirun("auto")
    if cuda.gpus:
        expected = [{"CUDA_VISIBLE_DEVICES": name} for name in expected.split()]
    assert children == expected
    assert int(os.environ["OMP_NUM_THREADS"]) >= 1
    assert (processes.rank(), processes.world_size()) == (0, 1)
    assert not processes.under_mpirun()


def test_a_single_process_speaks_at_once(monkeypatch):
    monkeypatch.setattr(errors.time, "sleep", None)
    monkeypatch.delenv("OMPI_COMM_WORLD_SIZE", raising=False)
    errors.let_rank_0_speak()
