"""The command line as a user meets it.

Most cases call the program in this process; at least one of each kind starts it anew.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy_siren import derivatives, value
from PIL import Image
from program import ROOT, call, go_on, paused, run
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from siren.images import read_image, write_png
from siren.output.rendering import view_shape
from siren.samples import grid, spacing

SMALL = ["--sidelength", "24", "--epochs", "3", "--hidden_features", "32", "--device", "cpu"]


def pixels(path):
    return np.asarray(Image.open(path)) / 127.5 - 1


# ---- all four tasks -------------------------------------------------------------------------

CASES = {
    "fit": ["--channels", 3],
    "poisson": ["--operator", "fd", "--aspect", "keep", "--input_path", ROOT / "data/rocket.jpg"],
    "edit": ["--channels", 3, "--operator", "forward", "--blend", "average", "--alpha", 0.25],
    "inpaint": ["--points", 100, "--seed", 4],
}


@pytest.fixture(scope="module", params=CASES)
def finished(request, tmp_path_factory):
    """One run of each task: (task, folder, what it said)."""
    task = request.param
    folder = tmp_path_factory.mktemp(task) / "not yet" / "there"
    start = run if task == "fit" else call
    result = start("--task", task, "--output_dir", folder, *SMALL, *CASES[task])
    assert result.returncode == 0, result.stderr
    return task, folder, result


def test_files_of_every_task(finished):
    task, folder, _ = finished
    expected = {"output.png", "reference.png", "panel.png"}
    expected |= {"metrics.json", "history.csv", "history.png", "network.npz"}
    if task == "inpaint":
        expected |= {"masked.png"}
    if task in ("poisson", "edit"):
        expected |= {"gradient.png", "laplacian.png"}
    assert {path.name for path in folder.iterdir()} == expected


def test_metrics_agree_with_scikit_image_on_the_saved_network(finished):
    task, folder, _ = finished
    metrics = json.loads((folder / "metrics.json").read_text())
    options = metrics["options"]
    assert options["task"] == task
    assert options["epochs"] == metrics["epochs"] == 3
    assert options["lr"] == 1e-4
    assert metrics["runtime"]["device"] == "cpu"
    assert metrics["runtime"]["jittor"].startswith("1.3")

    saved = np.load(folder / "network.npz", allow_pickle=False)
    layers = [(saved[f"weight_{i}"], saved[f"bias_{i}"]) for i in range(5)]
    layers = [(weight.astype(np.float64), bias.astype(np.float64)) for weight, bias in layers]
    height, width, channels = metrics["height"], metrics["width"], options["channels"]
    points = grid(height, width).astype(np.float64)
    output = value(layers, saved["omega_0"], points).reshape(height, width, channels)

    image = read_image(ROOT / options["input_path"], channels, (height, width))
    reference = image
    if task == "edit":
        other = read_image(ROOT / options["ot_image_path"], channels, (height, width))
        reference = 0.25 * image + 0.75 * other
    if task in ("poisson", "edit"):
        output = output - output.mean((0, 1)) + reference.mean((0, 1))
    np.testing.assert_allclose(
        pixels(folder / "output.png"), output.squeeze().clip(-1, 1), atol=1.1 / 255
    )
    np.testing.assert_allclose(
        pixels(folder / "reference.png"), reference.squeeze(), atol=1.1 / 255
    )

    if task == "inpaint":
        masked = pixels(folder / "masked.png")
        held_out = np.abs(masked) < 1 / 127  # mid-gray, or a given pixel that is just so
        assert 24 * 24 - 100 <= held_out.sum() <= 24 * 24 - 100 + 5
        mse = ((output - reference)[held_out] ** 2).mean()
        assert metrics["psnr"] == pytest.approx(10 * np.log10(4 / mse), abs=0.05)
    else:
        expected = peak_signal_noise_ratio(reference, output, data_range=2)
        assert metrics["psnr"] == pytest.approx(expected, abs=0.01)
        expected = structural_similarity(
            reference.astype(np.float64), output, data_range=2, channel_axis=-1
        )
        assert metrics["ssim"] == pytest.approx(expected, abs=1e-3)

    if task in ("poisson", "edit"):
        exact = derivatives(layers, saved["omega_0"], points, spacing(height, width), 1e-3)
        shape = (height, width, channels)
        strength = np.hypot(*(d.reshape(shape) for d in exact[1:3]))
        drawn = pixels(folder / "gradient.png").reshape(shape) / 2 + 0.5
        white = np.percentile(strength, 99.5)
        np.testing.assert_allclose(drawn, (strength / white).clip(0, 1), atol=0.01)
        drawn = pixels(folder / "laplacian.png").reshape(shape)
        white = np.percentile(np.abs(exact[3]), 99.5)
        np.testing.assert_allclose(drawn, (exact[3].reshape(shape) / white).clip(-1, 1), atol=0.01)


def test_history_and_console(finished):
    _, folder, result = finished
    rows = list(csv.DictReader((folder / "history.csv").open()))
    assert [int(row["epoch"]) for row in rows] == [0, 1, 2, 3]
    losses = [float(row["loss"]) for row in rows]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["loss"] == pytest.approx(min(losses), rel=1e-6)
    assert metrics["best_epoch"] == losses.index(min(losses))
    assert f"{metrics['psnr']:.2f} dB" in result.stdout
    assert "epoch 3/3" in result.stdout
    assert "Traceback" not in result.stderr


def test_same_seed_same_network_and_no_leftovers(tmp_path):
    arguments = ["--task", "inpaint", "--points", 50, *SMALL, "--output_dir", tmp_path]
    assert run(*arguments).returncode == 0
    first = np.load(tmp_path / "network.npz")
    assert call(*arguments).returncode == 0  # in a process that has done much else
    second = np.load(tmp_path / "network.npz")
    assert all((first[name] == second[name]).all() for name in first.files)
    # a run of another task into the same folder leaves no picture of this one behind
    (tmp_path / "mine.txt").write_text("kept")
    assert call("--task", "fit", *SMALL, "--output_dir", tmp_path).returncode == 0
    assert not (tmp_path / "masked.png").exists()
    assert (tmp_path / "mine.txt").exists()


@pytest.mark.parametrize("task", CASES)
def test_tuned_recipe_and_what_overrides_it(task, tmp_path):
    arguments = ["--task", task, "--recipe", "tuned", *SMALL]
    arguments += ["--points", 300] if task == "inpaint" else []
    result = call(*arguments, "--omega_0", 12, "--output_dir", tmp_path)
    assert result.returncode == 0, result.stderr
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    options = metrics["options"]
    assert options["omega_0"] == 12
    assert options["epochs"] == 3
    assert options["optimizer"] == "muon"
    assert options["schedule"] == "linear"
    assert options.get("prior") == {"inpaint": "structure", "fit": "none"}.get(task)
    assert options.get("residual_norm") == ("pixel" if task in ("poisson", "edit") else None)
    assert (options["omega_first"] > 12) == (task != "inpaint")
    batch = options["batch_points"]
    assert batch is None if task == "inpaint" else 4 * batch == metrics["points"]
    assert metrics["validation"] is not None
    names = {"fit": [], "inpaint": ["linear", "cubic", "thin_plate", "edge_enhancing"]}
    assert list(metrics["baselines"]) == names.get(task, ["direct"])
    if task == "inpaint":
        assert metrics["points"] == 300
        assert metrics["best_by"] == "validation loss"
        assert 10 < metrics["baselines"]["linear"]["psnr"] < 60


def test_divergence_saves_the_best_and_says_so(tmp_path):
    result = run(*SMALL, "--epochs", 30, "--lr", 1e30, "--output_dir", tmp_path)
    assert result.returncode == 3
    assert "not finite" in result.stderr
    assert "--lr" in result.stderr
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["ended"] == "diverged"
    assert np.isfinite(metrics["loss"])


# ---- help and bad input: no Jittor, no training -----------------------------------------------


def test_help_is_complete_and_quick():
    started = time.perf_counter()
    result = run("--help", cwd="/")
    print(f"--help took {time.perf_counter() - started:.2f} s")
    assert result.returncode == 0
    options = "task input_path output_dir channels sidelength epochs lr ot_image_path points "
    options += "operator blend alpha aspect omega_0 hidden_features hidden_layers seed device "
    options += (
        "batch_points recipe optimizer muon_lr schedule residual_norm prior prior_weight hold_out "
    )
    options += "engine "
    for option in (options + "verbose").split():
        assert f"--{option}" in result.stdout
    defaults = ("256", "1000", "0.0001", "5000", "30; tuned", "data/camera.png", "outputs/<task>")
    for default in defaults:
        assert default in result.stdout


def test_help_does_not_import_jittor():
    code = (
        "import runpy, sys; sys.argv = ['main.py', '--help']\n"
        "try: runpy.run_path('main.py', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "assert 'jittor' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


def test_a_second_run_imports_and_tries_only_what_it_needs(tmp_path):
    arguments = ["--task", "fit", *SMALL, "--output_dir"]
    assert call(*arguments, tmp_path / "first").returncode == 0
    code = (
        f"import sys, main; sys.argv[1:] = {[*arguments, str(tmp_path / 'second')]!r}\n"
        "assert main.main() == 0\n"
        "print({'scipy', 'siren.engine.fused', 'siren.engine.trial'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.splitlines()[-1:] == ["{'siren.engine.fused'}"], result.stderr
    first, second = (tmp_path / name / "output.png" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A folder of files that are no pictures."""
    folder = tmp_path_factory.mktemp("broken")
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("not a picture")
    whole = (ROOT / "data/camera.png").read_bytes()
    (folder / "truncated.png").write_bytes(whole[: len(whole) // 2])
    Image.new("1", (20000, 20000)).save(folder / "bomb.png")
    Image.new("L", (1000, 10)).save(folder / "narrow.png")
    (folder / "file").write_text("")
    (folder / "none").mkdir()
    return folder


BAD = [
    (["--input_path", "{broken}/none.png"], "--input_path", "none.png"),
    (["--input_path", "{broken}/empty.png"], "--input_path", "empty"),
    (["--input_path", "{broken}/text.png"], "--input_path", "text.png"),
    (["--input_path", "{broken}/truncated.png"], "--input_path", "truncated.png"),
    (["--input_path", "{broken}"], "--input_path", "bomb.png"),
    (["--input_path", "{broken}/none"], "--input_path", "without pictures"),
    (["--input_path", "{data}/camera.png", "{broken}/text.png"], "--input_path", "text.png"),
    (["--input_path", "{broken}/bomb.png"], "--input_path", "pixels"),
    (["--input_path", "{broken}/narrow.png", "--aspect", "keep"], "--input_path", "at least 8"),
    (["--task", "paint"], "--task", "paint"),
    (["--channels", "2"], "--channels", "2"),
    (["--channels", "x"], "--channels", "'x'"),
    (["--sidelength", "7"], "--sidelength", "between 8"),
    (["--sidelength", "99999999"], "--sidelength", "99999999"),
    (["--epochs", "0"], "--epochs", "0"),
    (["--epochs", "1.5"], "--epochs", "1.5"),
    (["--lr", "0"], "--lr", "0"),
    (["--lr", "-1e-4"], "--lr", "-1e-4"),
    (["--lr", "nan"], "--lr", "nan"),
    (["--lr", "inf"], "--lr", "inf"),
    (["--omega_0", "0"], "--omega_0", "0"),
    (["--alpha", "1.5"], "--alpha", "1.5"),
    (["--hidden_layers", "-1"], "--hidden_layers", "-1"),
    (["--seed", "-1"], "--seed", "-1"),
    (["--operator", "magic"], "--operator", "magic"),
    (["--recipe", "secret"], "--recipe", "secret"),
    (["--muon_lr", "0"], "--muon_lr", "0"),
    (["--prior_weight", "-1"], "--prior_weight", "-1"),
    (["--hold_out", "1"], "--hold_out", "1"),
    (["--schedule", "never"], "--schedule", "never"),
    (["--task", "inpaint", "--points", "0"], "--points", "0"),
    (["--task", "inpaint", "--points", "577", "--sidelength", "24"], "--points", "577"),
    (["--task", "edit", "--ot_image_path", "{broken}/none.png"], "--ot_image_path", "needs two"),
    (
        ["--task", "edit", "--input_path", "{data}/camera.png"],
        "--ot_image_path",
        "needs two images",
    ),
    (
        [
            "--task",
            "edit",
            "--input_path",
            "{data}/camera.png",
            "--ot_image_path",
            "{broken}/none.png",
        ],
        "--ot_image_path",
        "none.png",
    ),
    (["--output_dir", "{broken}/file"], "--output_dir", "file"),
    (["--output_dir", "{broken}/file/below"], "--output_dir", "below"),
    (["--output_dir", "/proc/nowhere"], "--output_dir", "/proc/nowhere"),
    (["--colour", "3"], "--colour", "3"),
    (["--sidelen", "64"], "--sidelen", "64"),
]


@pytest.mark.parametrize(("arguments", "option", "mentions"), BAD, ids=lambda v: str(v)[:60])
def test_bad_input_gets_one_sentence(arguments, option, mentions, broken, tmp_path):
    arguments = [a.format(broken=broken, data=ROOT / "data") for a in arguments]
    folder = tmp_path / "new" / "folder"
    if "--output_dir" not in arguments:
        arguments += ["--output_dir", str(folder)]
    result = call(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("main.py: error:")
    assert option in line
    assert mentions in line
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--input_path", "{broken}/truncated.png"],
        ["--input_path", "{broken}/bomb.png"],
        ["--lr", "nan"],
        ["--output_dir", "{broken}/file/below"],
        ["--colour", "3"],
        ["--task", "inpaint", "--mask_path", "{broken}/none.png"],
        ["--task", "render", "--network_path", "{broken}/text.png"],
        ["--task", "render", "--crop", "1", "1", "0", "0"],
    ],
    ids=" ".join,
)
def test_a_process_ends_as_a_call_does(arguments, broken):
    """With that status, and nothing from the interpreter's own exit."""
    arguments = [a.format(broken=broken) for a in arguments]
    process, called = run(*arguments), call(*arguments)
    assert process.returncode == called.returncode == 2
    assert process.stdout == called.stdout == ""
    assert process.stderr == called.stderr
    assert process.stderr.startswith("main.py: error: ")


# ---- render -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a fit at 16 x 24 pixels."""
    folder = tmp_path_factory.mktemp("trained")
    image = ["--input_path", ROOT / "data/rocket.jpg", "--aspect", "keep"]
    result = call("--task", "fit", "--output_dir", folder, *SMALL, *image)
    assert result.returncode == 0, result.stderr
    return folder


def render(trained, folder, *arguments, start=call):
    path = trained / "network.npz"
    result = start("--task", "render", "--network_path", path, "--output_dir", folder, *arguments)
    assert result.returncode == 0, result.stderr
    return np.asarray(Image.open(folder / "output.png"))


def test_rendering_at_the_size_of_training_is_the_trainings_picture(trained, tmp_path):
    expected = np.asarray(Image.open(trained / "output.png"))
    assert expected.shape == (16, 24)
    assert (render(trained, tmp_path, "--sidelength", 24, start=run) == expected).all()


def test_a_crop_is_a_part_of_the_whole(trained, tmp_path):
    whole = render(trained, tmp_path, "--sidelength", 121)
    part = render(trained, tmp_path, "--sidelength", 61, "--crop", 0, -1, 1, 0)
    assert whole.shape == (79, 121)
    assert part.shape == (40, 61)
    assert (part == whole[39:, :61]).all()
    thin = render(trained, tmp_path, "--sidelength", 60, "--crop", -0.5, -1, -0.3, 1)
    assert thin.shape == (5, 60)


FULL = (-1, -1, 1, 1)


@pytest.mark.parametrize(
    "trained_at, crop, side, drawn",
    [
        ((40, 96), FULL, 191, (79, 191)),  # twice the steps
        ((96, 40), FULL, 191, (191, 79)),
        ((64, 64), FULL, 37, (37, 37)),
        ((40, 96), FULL, 96, (40, 96)),
        ((40, 96), FULL, 48, (20, 48)),  # 47 steps * 39 / 95 are 19.3
        ((40, 96), FULL, 16384, (6727, 16384)),
        ((8, 16384), FULL, 16, (2, 16)),
        ((9, 17), FULL, 12, (7, 12)),  # 5.5 steps
        ((9, 17), FULL, 10, (6, 10)),  # 4.5 steps
        ((41, 97), (-1, -1, 0, 0), 49, (21, 49)),
        ((41, 97), (-1, -1, 1, 0), 49, (41, 49)),
        ((41, 97), (-1, -1, 1, -0.5), 81, (81, 49)),
    ],
)
def test_the_pixels_of_a_drawn_picture_are_square(trained_at, crop, side, drawn):
    assert view_shape(trained_at, crop, side) == drawn


def test_a_network_that_is_drawn_at_a_side_has_the_size_that_it_says(trained, tmp_path):
    assert render(trained, tmp_path, "--sidelength", 47).shape == (31, 47)  # twice 15 and 23 steps


def test_rendered_derivatives_are_the_networks(trained, tmp_path):
    render(trained, tmp_path, "--sidelength", 48, "--derivatives")
    with np.load(trained / "network.npz") as file:
        layers = [(file[f"weight_{i}"], file[f"bias_{i}"]) for i in range(5)]
    layers = [(weight.astype(np.float64), bias.astype(np.float64)) for weight, bias in layers]
    points = grid(32, 48).astype(np.float64)
    _, rows, columns, laplacian = derivatives(layers, 30.0, points)
    drawn = pixels(tmp_path / "laplacian.png").ravel()
    inside = np.abs(drawn) < 0.9
    assert np.corrcoef(drawn[inside], laplacian.ravel()[inside])[0, 1] > 0.9999
    drawn = pixels(tmp_path / "gradient.png").ravel()
    inside = drawn < 0.9
    assert np.corrcoef(drawn[inside], np.hypot(rows, columns).ravel()[inside])[0, 1] > 0.9999


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:3000]), "is not a network.npz"),
        (lambda path: path.write_bytes(b"\x89PNG" + bytes(100)), "is not a network.npz"),
        (lambda path: path.unlink(), "there is no file"),
        (lambda path: np.savez(path, omega_0=30.0), "is not a network.npz"),
        (lambda path: replace(path, weight_1=np.zeros((3, 3), np.float32)), "of a SIREN"),
        (lambda path: replace(path, bias_0=np.full(32, np.nan, np.float32)), "not finite"),
        (lambda path: replace(path, omega_0=-1.0), "of a SIREN"),
        (lambda path: replace(path, shape=np.array([1])), "is not a network.npz"),
        (lambda path: replace(path, shape=np.array([1, 9])), "no picture has its shape"),
        (lambda path: replace(path, shape=np.int64(9)), "is not a network.npz"),
        (lambda path: replace(path, shape=np.array(["9", "9"])), "is not a network.npz"),
        (lambda path: replace(path, shape=np.array([9j, 9])), "is not a network.npz"),
        (
            lambda path: replace(path, shape=np.array(["2020", "2021"], "M8[D]")),
            "is not a network.npz",
        ),
        (lambda path: replace(path, omega_0=1e300), "of a SIREN"),
        (lambda path: replace(path, weight_0=np.float32([[3e38, 3e38]] * 32)), "not numbers"),
        (lambda path: path.unlink() or os.mkfifo(path), "not a regular file"),
        (lambda path: replace(path, bits=12), "no picture has its shape and bits"),
        (lambda path: replace(path, bias_0=np.array([Trap()], object)), "is not a network.npz"),
    ],
)
def test_files_that_are_no_networks(trained, tmp_path, change, reason):
    path = tmp_path / "network.npz"
    path.write_bytes((trained / "network.npz").read_bytes())
    change(path)
    render = ["--task", "render", "--device", "cpu", "--network_path", path]
    result = call(*render, "--output_dir", tmp_path / "out")
    assert result.returncode == 2
    assert result.stderr.startswith("main.py: error: --network_path")
    assert reason in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()
    assert not Path("/tmp/siren-trap").exists()


class Trap:
    """What a malicious pickle would do."""

    def __reduce__(self):
        return Path.touch, (Path("/tmp/siren-trap"),)


def replace(path, **arrays):
    with np.load(path) as file:
        content = {name: file[name] for name in file.files}
    np.savez(path, **{**content, **arrays})


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--task", "render", "--crop", "1", "1", "0", "0"], "--crop: 1 1 0 0 is empty"),
        (["--task", "render", "--crop", "-1", "-2", "0", "0"], "--crop: -2 must be between"),
        (["--task", "fit", "--crop", "-1", "-1", "0", "0"], "--crop is for --task render"),
        (["--task", "fit", "--network_path", "a.npz"], "--network_path is for --task render"),
    ],
)
def test_wrong_options_of_render(arguments, reason):
    result = call(*arguments)
    assert result.returncode == 2
    assert reason in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("channels", [1, 3])
def test_a_16_bit_picture_gives_16_bit_results(channels, tmp_path):
    deep = tmp_path / "deep.png"
    ramp = np.arange(24 * 24 * channels).reshape(24, 24, channels) * 37.0
    write_png(deep, ramp / ramp.max() * 2 - 1, bits=16)
    inpaint = ["--task", "inpaint", "--points", 100, "--channels", channels]
    result = call(*SMALL, *inpaint, "--input_path", deep, "--output_dir", tmp_path / "a")
    assert result.returncode == 0, result.stderr
    network = ["--task", "render", "--network_path", tmp_path / "a" / "network.npz"]
    result = call(*network, "--sidelength", 24, "--derivatives", "--output_dir", tmp_path / "b")
    assert result.returncode == 0, result.stderr

    depths = {path: path.read_bytes()[24] for path in tmp_path.glob("[ab]/*.png")}
    valued = ("output.png", "reference.png", "masked.png")
    assert len(depths) == 8
    assert all(depth == (16 if path.name in valued else 8) for path, depth in depths.items())
    reference = read_image(tmp_path / "a" / "reference.png", channels)
    assert (reference == read_image(deep, channels)).all()
    saved = np.load(tmp_path / "a" / "network.npz")
    layers = [(saved[f"weight_{i}"], saved[f"bias_{i}"]) for i in range(5)]
    expected = value(layers, saved["omega_0"], grid(24, 24)).reshape(24, 24, channels)
    for folder in ("a", "b"):
        output = read_image(tmp_path / folder / "output.png", channels)
        np.testing.assert_allclose(output, expected.clip(-1, 1), atol=1e-4)


# ---- interrupted runs -------------------------------------------------------------------------


def epochs_of_state(folder):
    """How many epochs a run in ``folder`` has done, as it saved them."""
    with np.load(folder / "state.npz") as state:
        return len(json.loads(str(state["record"]))["history"])


def test_an_interrupted_run_resumes_to_the_same_network(tmp_path):
    whole, folder = tmp_path / "whole", tmp_path / "interrupted"
    many = [*SMALL, "--epochs", 600, "--output_dir"]
    assert call(*many, whole).returncode == 0
    done = 0
    for number, more in ((signal.SIGINT, []), (signal.SIGTERM, ["--resume"])):
        with paused(20, *many, folder, *more) as process:
            second = call(*many, folder)
            assert second.returncode == 2
            assert f"process {process.pid} is working" in second.stderr
            ended = go_on(process, number)
        assert ended.returncode == 130
        assert (f"resumed at epoch {done}\n" in ended.stdout) == bool(more)
        assert "--resume goes on" in ended.stderr
        assert json.loads((folder / "metrics.json").read_text())["ended"] == "interrupted"
        before, done = done, epochs_of_state(folder)
        assert before + 21 <= done < 600
    other = call(*many, folder, "--resume", "--lr", "0.5")
    assert "--lr 0.5 is not that of the earlier run, 0.0001" in other.stderr
    assert other.returncode == 2
    ended = run(*many, folder, "--resume")
    assert ended.returncode == 0
    assert f"resumed at epoch {done}\n" in ended.stdout
    assert not (folder / "state.npz").exists()
    with np.load(whole / "network.npz") as one, np.load(folder / "network.npz") as two:
        assert one.files == two.files
        assert all((one[name] == two[name]).all() for name in one.files)
    again = call(*many, folder, "--resume")
    assert "nothing is left to resume" in again.stdout
    assert again.returncode == 0


def test_resuming_where_there_is_nothing_begins_and_says_so(tmp_path):
    folders = [tmp_path / "fresh", tmp_path / "empty"]
    folders[1].mkdir()
    for folder in folders:
        begun = call(*SMALL, "--output_dir", folder, "--resume")
        assert begun.returncode == 0, begun.stderr
        assert (
            f"--resume begins a new run: there is no interrupted run in {folder}\n" in begun.stdout
        )
        assert (folder / "network.npz").exists()
    again = call(*SMALL, "--output_dir", folder, "--resume")
    assert again.returncode == 0
    assert "nothing is left to resume" in again.stdout and "begins" not in again.stdout
    before = (folder / "network.npz").read_bytes()
    other = call(*SMALL, "--output_dir", folder, "--resume", "--lr", "0.5")
    assert other.returncode == 2
    assert "--lr 0.5 is not that of the earlier run" in other.stderr
    assert (folder / "network.npz").read_bytes() == before


def test_resuming_leaves_alone_what_is_not_of_this_program(tmp_path):
    (tmp_path / "output.png").write_bytes(b"mine")
    refused = call(*SMALL, "--output_dir", tmp_path, "--resume")
    assert refused.returncode == 2 and "output.png" in refused.stderr
    assert (tmp_path / "output.png").read_bytes() == b"mine"


def test_a_preview_while_it_trains(tmp_path):
    many = [*SMALL, "--epochs", 60, "--preview_every", 2, "--output_dir", tmp_path]
    with paused(21, *many) as process:
        early = pixels(tmp_path / "preview.png")
        assert go_on(process).returncode == 0
    late, final = pixels(tmp_path / "preview.png"), pixels(tmp_path / "output.png")
    assert early.shape == late.shape == final.shape
    assert np.abs(late - final).mean() < np.abs(early - final).mean()
    with Image.open(tmp_path / "training.gif") as animation:
        assert 16 <= animation.n_frames <= 61
    assert call(*SMALL, "--output_dir", tmp_path).returncode == 0
    assert not (tmp_path / "preview.png").exists()
    assert not (tmp_path / "training.gif").exists()


# ---- masks ------------------------------------------------------------------------------------


@pytest.fixture
def mask(tmp_path):
    """A mask with a white square, 48 x 48 as a user may have drawn it."""
    white = np.zeros((48, 48), np.uint8)
    white[12:24, 16:32] = 255
    Image.fromarray(white).save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


def test_masks_from_the_command_line(mask, tmp_path):
    result = call(*SMALL, "--task", "inpaint", "--mask_path", mask, "--output_dir", tmp_path / "a")
    assert result.returncode == 0, result.stderr
    given = np.asarray(Image.open(tmp_path / "a" / "masked.png"))
    assert (given[6:12, 8:16] == 128).all()
    assert json.loads((tmp_path / "a" / "metrics.json").read_text())["points"] == 24 * 24 - 48
    edit = ["--task", "edit", "--mask_path", mask, "--offset", 3, -4]
    result = call(*SMALL, *edit, "--output_dir", tmp_path / "b")
    assert result.returncode == 0, result.stderr
    options = json.loads((tmp_path / "b" / "metrics.json").read_text())["options"]
    assert options["offset"] == [3, -4]


def test_degenerate_masks_end_no_run(tmp_path):
    """A frame of one pixel (a k-d tree without subnormal numbers never ended), and single rows."""
    row, column = np.indices((96, 96))
    for name, given in (("frame", (row % 95 == 0) | (column % 95 == 0)), ("rows", row % 32 == 0)):
        Image.fromarray(np.where(given, 0, 255).astype(np.uint8)).save(tmp_path / f"{name}.png")
        inpaint = ["--task", "inpaint", "--mask_path", tmp_path / f"{name}.png", "--epochs", "2"]
        small = ["--sidelength", "96", "--hidden_features", "32", "--device", "cpu"]
        result = call(*small, *inpaint, "--output_dir", tmp_path / name)
        assert result.returncode == 0, result.stderr
        assert "thin_plate: PSNR" in result.stdout
        assert "linear is taken there" in result.stdout  # along one side or row
        assert (tmp_path / name / "panel.png").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--task", "fit", "--mask_path", "a.png"], "--mask_path is for --task inpaint"),
        (["--task", "edit", "--offset", "1", "2"], "--offset is for --task edit with"),
        (["--task", "inpaint", "--mask_path", "nothing.png"], "--mask_path: 'nothing.png' does"),
        (["--task", "inpaint", "--mask_path", "white.png"], "'white.png' is white everywhere"),
        (
            ["--task", "edit", "--mask_path", "dot.png", "--offset", "300", "0"],
            "--offset 300 0 moves all of the region",
        ),
        (
            ["--task", "edit", "--mask_path", "dot.png", "--sidelength", "8"],
            "'dot.png' is black everywhere at 8 x 8 pixels",
        ),
    ],
)
def test_wrong_masks(arguments, reason, tmp_path, monkeypatch):
    Image.new("L", (9, 9), 255).save(tmp_path / "white.png")
    dot = Image.new("L", (200, 200), 0)
    dot.putpixel((100, 100), 255)
    dot.save(tmp_path / "dot.png")
    monkeypatch.chdir(tmp_path)
    result = call(*arguments)
    assert result.returncode == 2
    assert reason in result.stderr
    assert len(result.stderr.splitlines()) == 1
