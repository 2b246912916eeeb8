"""The results of a picture are written by a child while the next one is trained."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from program import PAUSING, ROOT, call, draw, network, state, statuses, wait_for

from siren.cli import finisher, finishing

SMALL = ["--task", "inpaint", "--points", 100, "--sidelength", 24, "--hidden_features", 32]
SMALL += ["--device", "cpu", "--epochs", 3]
# The child's program, with a change; and main.py, whose child that is.
CHILD = """
import os, signal, sys, time
from pathlib import Path
from siren import files
from siren.cli import finisher, finishing
from siren.output import results
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
{}
finisher.work(int(sys.argv[1]))
"""
MAIN = """
from siren.cli import finisher
finisher._PROGRAM = sys.argv.pop(1)
import main"""
WAITS = CHILD.format("""
write = finishing.Saving.__call__
def write_later(self):
    Path(self.folder, "../child").write_text(str(os.getpid()))
    while not Path(self.folder, "../go").exists():
        time.sleep(0.01)
    return write(self)
finishing.Saving.__call__ = write_later
""")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number, name in enumerate("ab"):
        draw(folder / f"{name}.png", (48, 36), number)
    return folder


@pytest.fixture(scope="module")
def alone(photos, tmp_path_factory):
    """The folder of each picture trained in a call of its own, which has no child."""
    folder = tmp_path_factory.mktemp("alone")
    for name in "ab":
        train = [*SMALL, "--input_path", photos / f"{name}.png", "--output_dir", folder / name]
        assert call(*train).returncode == 0
    return folder


def check_same(folder, alone):
    """Whatever happened, everything is there, and nothing else."""
    for name in "ab":
        assert {p.name for p in (folder / name).iterdir()} == {
            p.name for p in (alone / name).iterdir()
        }
        for path in (alone / name).glob("*.png"):
            if path.name != "history.png":
                assert path.read_bytes() == (folder / name / path.name).read_bytes(), path
        assert network(folder / name) == network(alone / name)
        ours, theirs = (
            json.loads((f / name / "metrics.json").read_text()) for f in (folder, alone)
        )
        for key in ("psnr", "ssim", "baselines", "notes", "runtime", "ended"):
            assert ours[key] == theirs[key]
        assert list(ours) == list(theirs)
    assert statuses(folder) == dict.fromkeys("ab", "finished")


def test_a_child_writes_what_a_call_alone_writes(photos, alone, tmp_path, monkeypatch):
    began = []
    begin = finisher.Finisher.begin
    monkeypatch.setattr(
        finisher.Finisher, "begin", lambda *given: began.append(begin(*given)) or began[-1]
    )
    result = call(*SMALL, "--input_path", photos, "--output_dir", tmp_path / "o")
    assert result.returncode == 0, result.stderr
    assert len(began) == 2
    check_same(tmp_path / "o", alone)
    said = [line for line in result.stdout.splitlines() if ": output: PSNR" in line]
    assert [Path(line.split(":")[0]).name for line in said] == ["a.png", "b.png"]


@pytest.mark.parametrize(
    "change",
    [
        "finishing.Saving.__call__ = die",
        "results.Results.write = die",  # the network is there, and counts as interrupted
        "files._complete = die",  # the commit has begun
        "finisher.Connection.send = die",  # all is written
        "finisher.Connection.send = None",
    ],
)
def test_a_child_that_dies_costs_nothing(photos, alone, tmp_path, monkeypatch, change):
    monkeypatch.setattr(finisher, "_PROGRAM", CHILD.format(change))
    result = call(*SMALL, "--input_path", photos, "--output_dir", tmp_path / "o")
    assert result.returncode == 0, result.stderr
    check_same(tmp_path / "o", alone)


def test_a_disk_that_is_full_for_the_child(photos, alone, tmp_path, monkeypatch):
    full = """
def fail(*_):
    raise OSError(28, "No space left on device")
results.encode_json = fail
"""
    train = [*SMALL, "--input_path", photos, "--output_dir", tmp_path / "o"]
    with monkeypatch.context() as patch:
        patch.setattr(finisher, "_PROGRAM", CHILD.format(full))
        result = call(*train)
    assert result.returncode == 1
    lines = [line for line in result.stderr.splitlines() if "No space left" in line]
    assert [("a.png" in line, "--resume writes them" in line) for line in lines] == [
        (True, True),
        (False, True),
    ]
    assert {path.name for path in (tmp_path / "o" / "a").iterdir()} == {"state.npz"}
    assert call(*train, "--resume").returncode == 0
    check_same(tmp_path / "o", alone)


def test_a_picture_that_the_child_cannot_make(photos, tmp_path, monkeypatch):
    change = "def fail(*_):\n    raise MemoryError\nresults.draw_result = fail"
    monkeypatch.setattr(finisher, "_PROGRAM", CHILD.format(change))
    result = call(*SMALL, "--input_path", photos, "--output_dir", tmp_path / "o", "--verbose")
    assert result.returncode == 1
    assert result.stderr.count("not enough memory") == 2
    assert result.stderr.count("in fail\n") == 2  # where that was in the child
    for name in "ab":
        assert (tmp_path / "o" / name / "output.png").exists()
        assert not (tmp_path / "o" / name / "panel.png").exists()


def test_what_cannot_be_sent_is_written_by_this_process(photos, alone, tmp_path, monkeypatch):
    monkeypatch.setattr(finishing.Saving, "detached", lambda self: lambda: None)
    result = call(*SMALL, "--input_path", photos, "--output_dir", tmp_path / "o")
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("no other process can write the results") == 2
    check_same(tmp_path / "o", alone)


# ---- interruptions ----------------------------------------------------------------------------


EPOCHS = 200
MANY = [*SMALL, "--epochs", EPOCHS]


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory):
    """The folder of a call that was not interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    assert call(*MANY, "--input_path", photos, "--output_dir", folder).returncode == 0
    return folder


class Overlap:
    """A call in a process that has paused in the training of ``b``; its child waits to write ``a``.

    ``go_on`` lets the process meet a signal, if there is one, and ``write`` lets the child write.
    """

    def __init__(self, photos, folder):
        self.folder = folder
        self.train = [*MANY, "--input_path", photos, "--output_dir", folder]
        patched = PAUSING.replace("import main", MAIN)
        command = [sys.executable, "-c", patched, ROOT, EPOCHS + 1 + 20, WAITS, *self.train]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            list(map(str, command)), stdout=pipe, stderr=pipe, text=True
        )

    def __enter__(self):
        _, status = os.waitpid(self.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), self.process.stderr.read()
        child = self.folder / "child"
        wait_for(lambda: child.exists() and child.read_text())
        self.child = int(child.read_text())
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def go_on(self, *signals):
        for number in (*signals, signal.SIGCONT):
            self.process.send_signal(number)

    def write(self):
        (self.folder / "go").touch()

    def ended(self):
        """(exit status, what it said on stderr)."""
        _, err = self.process.communicate(timeout=600)
        wait_for(lambda: state(self.child) in "ZX")
        return self.process.returncode, err

    def check_resumed(self, whole):
        assert call(*self.train, "--resume").returncode == 0
        check_same(self.folder, whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_waits_for_the_picture_before(photos, whole, tmp_path, number):
    with Overlap(photos, tmp_path) as overlap:
        overlap.go_on(number)
        wait_for((tmp_path / "b" / "state.npz").exists)
        overlap.write()
        status, said = overlap.ended()
        assert status == 130, said
        assert statuses(tmp_path) == {"a": "finished", "b": "interrupted"}
        assert (tmp_path / "b" / "output.png").exists()
        written = (tmp_path / "a" / "network.npz").stat().st_mtime_ns
        overlap.check_resumed(whole)
        assert (tmp_path / "a" / "network.npz").stat().st_mtime_ns == written


def test_a_second_interruption_keeps_the_state_of_the_picture_before(photos, whole, tmp_path):
    with Overlap(photos, tmp_path) as overlap:
        overlap.go_on(signal.SIGINT)
        wait_for((tmp_path / "b" / "state.npz").exists)
        overlap.process.send_signal(signal.SIGINT)
        status, said = overlap.ended()
        assert status == 130, said
        assert "a.png: interrupted while the results were saved; nothing is lost" in said
        assert statuses(tmp_path) == dict.fromkeys("ab", "interrupted")
        assert {path.name for path in (tmp_path / "a").iterdir()} == {"state.npz"}
        assert (tmp_path / "b" / "output.png").exists()
        overlap.check_resumed(whole)


def test_the_child_ends_with_a_process_that_is_killed(photos, whole, tmp_path):
    with Overlap(photos, tmp_path) as overlap:
        overlap.process.kill()
        overlap.ended()
        overlap.check_resumed(whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_child_is_killed_while_the_next_picture_is_trained(photos, whole, tmp_path, number):
    with Overlap(photos, tmp_path) as overlap:
        os.kill(overlap.child, number)
        wait_for(lambda: state(overlap.child) in "ZX")
        overlap.write()  # by this process, and of the second picture by another child
        overlap.go_on()
        status, said = overlap.ended()
        assert status == 0, said
        check_same(tmp_path, whole)


def test_a_terminal_s_ctrl_c_does_not_reach_the_child(photos, tmp_path):
    with Overlap(photos, tmp_path) as overlap:
        assert os.getsid(overlap.child) != os.getsid(overlap.process.pid)
