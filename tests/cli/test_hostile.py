"""What belongs to the user is never lost, and nothing ends in a traceback."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from program import ROOT, call

from siren.cli import resuming
from siren.output import PREVIEW_MARK, results
from siren.training import checkpoint, loop

SMALL = ["--sidelength", "16", "--epochs", "3", "--hidden_features", "32", "--device", "cpu"]
CAMERA = ROOT / "data" / "camera.png"


def content(folder):
    return {path.name: None if path.is_dir() else path.read_bytes() for path in folder.iterdir()}


def one_sentence(called, status, *mentions):
    """It ended with ``status`` and a line that says so; no traceback."""
    assert called.returncode == status, called.stderr
    lines = [line for line in called.stderr.splitlines() if line.startswith("main.py: ")]
    assert len(lines) == 1, called.stderr
    assert "Traceback" not in called.stderr
    for text in mentions:
        assert text in lines[0]
    return lines[0]


def train(folder, *arguments):
    called = call(*SMALL, "--output_dir", folder, *arguments)
    assert called.returncode == 0, called.stderr
    return called


def parameters(folder):
    with np.load(folder / "network.npz") as file:
        return np.concatenate([file[f"weight_{i}"].ravel() for i in range(5)])


# ---- once training has ended, nothing can cost the network --------------------------------------


def test_ssim_that_is_not_defined_is_null(tmp_path):
    frame = np.full((16, 16), 255, np.uint8)
    frame[3:-3, 3:-3] = 0
    Image.fromarray(frame).save(tmp_path / "frame.png")
    for number, given in enumerate((["--mask_path", tmp_path / "frame.png"], ["--points", 255])):
        folder = tmp_path / str(number)
        called = train(folder, "--task", "inpaint", "--seed", 1, *given)
        metrics = json.loads((folder / "metrics.json").read_text())
        assert np.isfinite(metrics["psnr"])
        if number == 0:
            assert metrics["ssim"] is None
            assert metrics["baselines"]["linear"]["ssim"] is None
            assert "SSIM n/a on the pixels not given" in called.stdout
    pictures = ["--input_path", CAMERA, ROOT / "data" / "coffee.jpg"]
    mask = ["--task", "inpaint", "--mask_path", tmp_path / "frame.png"]
    train(tmp_path / "all", *mask, *pictures)
    assert (tmp_path / "all" / "coffee" / "network.npz").exists()


@pytest.mark.parametrize("error", [ValueError("shapes"), MemoryError(), RuntimeError("a\nb")])
@pytest.mark.parametrize("part", ["draw_result", "_score", "encode_png", "draw_history"])
def test_a_picture_that_cannot_be_made_does_not_cost_the_network(
    tmp_path, monkeypatch, part, error
):
    def fail(*_):
        raise error

    train(tmp_path / "whole")
    monkeypatch.setattr(results, part, fail)
    called = call(*SMALL, "--output_dir", tmp_path / "folder")
    says = "not enough memory" if isinstance(error, MemoryError) else "an error of the program"
    line = one_sentence(called, 1, says)
    assert isinstance(error, MemoryError) or "--verbose" in line
    assert "written to" in called.stdout
    assert (parameters(tmp_path / "folder") == parameters(tmp_path / "whole")).all()
    assert json.loads((tmp_path / "folder" / "metrics.json").read_text())["ended"] == "finished"


@pytest.mark.parametrize(
    ("error", "status"),
    [(KeyboardInterrupt, 130), (OSError(28, "No space left on device"), 1), (LookupError, 1)],
)
def test_results_that_cannot_be_written_are_not_lost(tmp_path, monkeypatch, error, status):
    folder = tmp_path / "folder"
    train(tmp_path / "whole", "--seed", 5)
    train(folder)
    before = content(folder)

    def fail(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(results, "encode_json", fail)
        called = call(*SMALL, "--output_dir", folder, "--seed", 5)
    assert called.returncode == status
    assert "--resume" in called.stderr
    assert "Traceback" not in called.stderr
    after = content(folder)
    assert after.pop("state.npz")
    assert after == before
    train(folder, "--seed", 5, "--resume")
    assert (parameters(folder) == parameters(tmp_path / "whole")).all()
    assert len((folder / "history.csv").read_text().splitlines()) == 5
    assert not (folder / "state.npz").exists()


def test_where_no_state_fits_either_the_network_goes_elsewhere(tmp_path, monkeypatch):
    train(tmp_path / "whole")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(results, "encode_json", fail)
    monkeypatch.setattr(checkpoint, "write_bytes", fail)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    one_sentence(call(*SMALL, "--output_dir", tmp_path / "folder"), 1, "the network is in")
    (saved,) = tmp_path.glob("siren-network-*")
    assert (parameters(saved) == parameters(tmp_path / "whole")).all()


def test_a_folder_that_turns_into_a_file_meanwhile(tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    original = loop.train

    def replaced(*arguments, **more):
        result = original(*arguments, **more)
        shutil.rmtree(folder)
        folder.write_text("a file")
        return result

    monkeypatch.setattr(loop, "train", replaced)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    one_sentence(call(*SMALL, "--output_dir", folder), 1, "the network is in")
    assert folder.read_text() == "a file"


STREAMS = {
    "a reader that leaves": "{} | head -c 0; exit ${{PIPESTATUS[0]}}",
    "a full device": "{} >/dev/full 2>/dev/full",
    "closed": "{} <&- >&- 2>&-",
    "ascii": "PYTHONIOENCODING=ascii LC_ALL=C {}",
}


@pytest.fixture(scope="module")
def cut_off(tmp_path_factory):
    """By each of ``STREAMS`` a run (process, folder); as they mostly import, all run at once."""
    runs = {}
    for how, script in STREAMS.items():
        folder = tmp_path_factory.mktemp("cut_off")
        odd = folder / "\N{CAMERA}\x1b[31m\n.png"
        shutil.copy(CAMERA, odd)
        command = [sys.executable, ROOT / "main.py", *SMALL, "--input_path", odd]
        command += ["--output_dir", folder / "out"]
        quoted = " ".join(f"'{part}'" for part in command)
        process = subprocess.Popen(
            ["bash", "-c", script.format(quoted)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        runs[how] = process, folder
    return runs


@pytest.mark.parametrize("how", STREAMS)
def test_a_run_that_cannot_talk_saves(cut_off, how):
    process, folder = cut_off[how]
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert (folder / "out" / "network.npz").exists()
    assert "\x1b" not in out + err
    assert "Traceback" not in err
    if how == "ascii":
        assert r"\U0001f4f7\x1b[31m\n.png at 16 x 16" in out


# ---- the program touches no file but its own -----------------------------------------------------

FOREIGN = ["masked.png", "gradient.png", "laplacian.png", "preview.png", "training.gif", "x.png"]


@pytest.mark.parametrize("task", ["fit", "poisson", "inpaint"])
def test_files_of_others_stay(tmp_path, task):
    mine = {"fit": set(), "poisson": {"gradient.png", "laplacian.png"}, "inpaint": {"masked.png"}}
    names = [name for name in FOREIGN if name not in mine[task]]
    names += [".backup-2024", ".siren-commit", "state-1.npz"]
    for name in names:
        shutil.copy(CAMERA, tmp_path / name)
    (tmp_path / ".cache-1").mkdir()
    for _ in range(2):  # and are not taken for those of the first run in the second one
        train(tmp_path, "--task", task, "--input_path", tmp_path / "preview.png")
        for name in names:
            assert (tmp_path / name).read_bytes() == CAMERA.read_bytes()
        assert (tmp_path / ".cache-1").is_dir()
    train(tmp_path, "--task", "fit")
    assert not any((tmp_path / name).exists() for name in mine[task])


RESULTS = ["output.png", "metrics.json", "network.npz", "history.csv", "summary.csv"]


@pytest.mark.parametrize("name", RESULTS)
def test_a_file_of_others_is_not_written_over(tmp_path, name):
    pictures = [CAMERA, ROOT / "data" / "coffee.jpg"] if name == "summary.csv" else [CAMERA]
    for foreign in (
        b"mine",
        b'{"options": {}}',
        b"a,b\nimage,folder,task,psnr,ssim,seconds,status\n",
    ):
        (tmp_path / name).write_bytes(foreign)
        called = call(*SMALL, "--input_path", *pictures, "--output_dir", tmp_path)
        one_sentence(called, 2, "--output_dir", name)
        assert content(tmp_path) == {name: foreign}


def test_a_result_that_the_user_has_changed_is_the_users(tmp_path):
    train(tmp_path)
    Image.new("L", (9, 9)).save(tmp_path / "output.png")
    before = content(tmp_path)
    one_sentence(call(*SMALL, "--output_dir", tmp_path), 2, "output.png", "not as this program")
    assert content(tmp_path) == before


def test_inputs_are_known_by_what_they_are_and_not_by_name(tmp_path):
    shutil.copy(CAMERA, tmp_path / "output.png")
    shutil.copy(CAMERA, tmp_path / "state.npz")
    os.link(tmp_path / "output.png", tmp_path / "hard.png")
    (tmp_path / "soft.png").symlink_to("output.png")
    (tmp_path / "sub").mkdir()
    around = tmp_path / "sub" / ".." / "output.png"
    second = ["--task", "edit", "--input_path", CAMERA, "--ot_image_path"]
    mask = ["--task", "inpaint", "--mask_path"]
    before = content(tmp_path)
    for name in ("output.png", "hard.png", "soft.png", around):
        for option in (["--input_path"], second, mask):
            called = call(*SMALL, "--output_dir", tmp_path, *option, tmp_path / name)
            if option is mask:
                assert called.returncode == 2
            else:
                one_sentence(called, 2, "its own input", "--output_dir")
    several = ["--input_path", CAMERA, tmp_path / "all" / "camera" / "output.png"]
    (tmp_path / "all" / "camera").mkdir(parents=True)
    shutil.copy(CAMERA, tmp_path / "all" / "camera" / "output.png")
    one_sentence(call(*SMALL, "--output_dir", tmp_path / "all", *several), 2, "its own input")
    shutil.rmtree(tmp_path / "all")
    assert content(tmp_path) == before


def test_an_input_among_leftovers_is_not_removed(tmp_path):
    train(tmp_path, "--task", "inpaint", "--points", 50)
    before = content(tmp_path)
    called = call(*SMALL, "--output_dir", tmp_path, "--input_path", tmp_path / "masked.png")
    one_sentence(called, 2, "masked.png")
    assert content(tmp_path) == before


def test_rendering_does_not_mix_with_training(tmp_path):
    trained, drawn = tmp_path / "trained", tmp_path / "drawn"
    train(trained)
    before = content(trained)
    render = ["--task", "render", "--sidelength", 20, "--network_path", trained / "network.npz"]
    one_sentence(call(*render, "--output_dir", trained), 2, "holds results of a training")
    assert content(trained) == before
    for more in (["--derivatives"], []):
        assert call(*render, "--output_dir", drawn, *more).returncode == 0
        names = {"output.png", "rendering.json", "gradient.png", "laplacian.png"}
        assert set(content(drawn)) == (names if more else {"output.png", "rendering.json"})
    one_sentence(call(*SMALL, "--output_dir", drawn), 2, "pictures that render has drawn")
    from siren.files import locked

    with locked(drawn):
        one_sentence(call(*render, "--output_dir", drawn), 2, f"process {os.getpid()} is working")


# ---- interrupted runs ----------------------------------------------------------------------------


def interrupted_run(folder, monkeypatch, *arguments):
    """A run that is asked to stop in its third epoch."""
    original = loop.train

    def stopped(*arguments, **more):
        asked = iter([False, False, True])
        return original(*arguments, **{**more, "stop": lambda: next(asked)})

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train", stopped)
        called = call(*SMALL, "--epochs", 20, "--output_dir", folder, *arguments)
    one_sentence(called, 130, "--resume goes on")


def test_a_state_is_kept_where_resume_is_forgotten(tmp_path, monkeypatch):
    interrupted_run(tmp_path, monkeypatch)
    state = (tmp_path / "state.npz").read_bytes()
    called = train(tmp_path, "--epochs", 20)
    assert "--resume would have continued" in called.stdout
    assert (tmp_path / "state-1.npz").read_bytes() == state
    assert not (tmp_path / "state.npz").exists()
    (tmp_path / "metrics.json").unlink()
    for name in (
        "output.png",
        "reference.png",
        "panel.png",
        "history.csv",
        "history.png",
        "network.npz",
    ):
        (tmp_path / name).unlink()
    called = train(tmp_path, "--epochs", 20, "--resume")
    assert "to continue state-1.npz, rename it state.npz" in called.stdout
    assert (tmp_path / "state-1.npz").read_bytes() == state
    (tmp_path / "state-1.npz").rename(tmp_path / "state.npz")
    assert "resumed at epoch 3" in train(tmp_path, "--epochs", 20, "--resume").stdout


def test_a_run_whose_recipe_chose_otherwise_is_continued_as_it_began(tmp_path, monkeypatch):
    chosen = ["--hidden_features", 16, "--omega_first", 90, "--muon_lr", 0.004]
    small = ["--sidelength", 16, "--device", "cpu", "--output_dir", tmp_path]
    interrupted_run(tmp_path, monkeypatch, "--recipe", "tuned", *chosen)  # as earlier versions did
    called = call("--recipe", "tuned", *small, "--resume")
    assert "16 units, 20 epochs" in called.stdout
    assert "resumed at epoch 1" in called.stdout
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["options"]["omega_first"] == 90
    again = call("--recipe", "tuned", *small, "--resume")
    assert "nothing is left to resume" in again.stdout
    other = call("--recipe", "tuned", *small, "--resume", "--epochs", 9)
    one_sentence(other, 2, "--resume", "9 is not that of the earlier run, 20")


def test_a_run_in_float32_is_continued_in_it(tmp_path, monkeypatch):
    interrupted_run(tmp_path, monkeypatch, "--precision", "fp32")
    assert "resumed at epoch 3" in train(tmp_path, "--epochs", 20, "--resume").stdout
    assert json.loads((tmp_path / "metrics.json").read_text())["options"]["precision"] == "fp32"


def test_resuming_with_other_threads_is_told(tmp_path, monkeypatch):
    interrupted_run(tmp_path, monkeypatch)
    described = resuming.runtime.describe()
    other = {**described, "threads": described["threads"] + 1}
    monkeypatch.setattr(resuming.runtime, "describe", lambda: other)
    called = train(tmp_path, "--epochs", 20, "--resume")
    assert "up to rounding, not bit for bit" in called.stdout


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The folder of an interrupted run."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        interrupted_run(folder, patch)
    return folder


@pytest.mark.parametrize("damage", ["cut off", "of another network"])
def test_a_damaged_state_is_refused(tmp_path, stopped, damage):
    """More kinds are in test_checkpoint.py."""
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    path = folder / "state.npz"
    if damage == "cut off":
        os.truncate(path, 5000)
    else:
        with np.load(path) as file:
            np.savez(path, **{**file, "flat": file["flat"][1:]})
    before = content(folder)
    called = call(*SMALL, "--epochs", 20, "--output_dir", folder, "--resume")
    one_sentence(called, 2, "--resume", "state.npz", "damaged")
    assert content(folder) == before


@pytest.mark.parametrize("kind", ["fifo", "folder", "empty", "huge"])
def test_what_is_no_state_at_all(tmp_path, kind):
    path = tmp_path / "state.npz"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.touch()
        os.truncate(path, 10**12 if kind == "huge" else 0)
    called = call(*SMALL, "--output_dir", tmp_path, "--resume")
    one_sentence(called, 2, "state.npz")
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.npz"]


def test_odd_things_where_several_are_resumed(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("a", "b", "c" * 251):
        shutil.copy(CAMERA, pictures / f"{name}.png")
    several = ["--input_path", pictures, "--output_dir", tmp_path / "out"]
    (tmp_path / "out" / "a").mkdir(parents=True)
    (tmp_path / "out" / "a" / "metrics.json").write_text("[" * 100000)
    called = call(*SMALL, *several, "--resume")
    one_sentence(called, 2, "metrics.json")
    (tmp_path / "out" / "a" / "metrics.json").unlink()
    assert call(*SMALL, *several, "--resume").returncode == 0
    assert call(*SMALL, *several, "--resume").returncode == 0
    one_sentence(call(*SMALL, "--input_path", "n" * 300, "--output_dir", tmp_path / "o"), 2)


def test_a_preview_of_a_killed_run_is_no_input_to_be_lost(tmp_path):
    picture = CAMERA.read_bytes() + PREVIEW_MARK
    (tmp_path / "preview.png").write_bytes(picture)
    (tmp_path / ".lock").write_text("4\n")
    called = call(*SMALL, "--output_dir", tmp_path, "--input_path", tmp_path / "preview.png")
    one_sentence(called, 2, "its own input")
    assert (tmp_path / "preview.png").read_bytes() == picture
    train(tmp_path)
    assert not (tmp_path / "preview.png").exists()
    assert not (tmp_path / ".lock").exists()


def test_several_go_on_after_a_kill_in_any_place(tmp_path):
    """A preview that no metrics.json lists, and a change that was not completed."""
    folder = tmp_path / "out" / "camera"
    arguments = ["--input_path", CAMERA, ROOT / "data" / "coffee.jpg", "--preview_every", 1]
    train(tmp_path / "out", *arguments)
    before = content(folder)
    (folder / "preview.png").write_bytes(b"a preview of the next run" + PREVIEW_MARK)
    (folder / ".lock").write_text("4\n")
    part = ".siren-4-0123456789abcdef.part"
    (folder / part).write_bytes(b"new")
    (folder / ".siren-commit.json").write_text(
        json.dumps({"rename": {part: "history.csv"}, "remove": []})
    )
    called = call(*SMALL, "--output_dir", tmp_path / "out", *arguments)
    one_sentence(called, 2, "history.csv")  # not what metrics.json says: a change is all or nothing
    (folder / "history.csv").write_bytes(before["history.csv"])
    train(tmp_path / "out", *arguments)
    assert content(folder).keys() == before.keys()


# ---- what nobody foresaw -------------------------------------------------------------------------


@pytest.mark.parametrize("verbose", [False, True])
def test_an_error_that_nobody_foresaw(tmp_path, monkeypatch, verbose):
    def fail(*_, **__):
        raise LookupError("so much for that\nand more")

    monkeypatch.setattr(loop, "train", fail)
    called = call(*SMALL, "--output_dir", tmp_path / "out", *["--verbose"] * verbose)
    assert called.returncode == 1
    assert ("Traceback" in called.stderr) == verbose
    last = called.stderr.splitlines()[-1]
    assert last.startswith("main.py: error: an error of the program, LookupError: so much for that")
    assert "--verbose" in last
    assert not (tmp_path / "out").exists()


def test_one_of_several_that_fails_in_any_way_leaves_the_others_alone(tmp_path, monkeypatch):
    original = loop.train

    def fail(network, task, *arguments, **more):
        if task.reference.mean() < 0:
            raise RuntimeError("std::bad_alloc")
        return original(network, task, *arguments, **more)

    Image.new("L", (20, 20), 0).save(tmp_path / "a.png")
    Image.new("L", (20, 20), 255).save(tmp_path / "b.png")
    monkeypatch.setattr(loop, "train", fail)
    pictures = ["--input_path", tmp_path / "a.png", tmp_path / "b.png"]
    called = call(*SMALL, *pictures, "--output_dir", tmp_path / "out")
    one_sentence(called, 1, "not enough memory")
    assert (tmp_path / "out" / "b" / "network.npz").exists()


# ---- signals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("pause", [0, pytest.param(0.05, marks=pytest.mark.soak)])
def test_two_signals_at_once_while_training(tmp_path, number, pause):
    import time

    command = [sys.executable, str(ROOT / "main.py"), *SMALL, "--epochs", "1000000"]
    process = subprocess.Popen(
        [*command, "--output_dir", str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert any(line.startswith("epoch 100/") for line in process.stdout)
    process.send_signal(number)
    time.sleep(pause)
    process.send_signal(number)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "Traceback" not in errors
    last = errors.splitlines()[-1]
    if (tmp_path / "out" / "state.npz").exists():
        assert "--resume" in last
        assert "nothing was written" not in last
    else:
        assert "--resume" not in last
    assert not [p for p in (tmp_path / "out").iterdir() if p.name.startswith(".")]
