"""What holds for every picture and every combination of options, tried on many (hypothesis)."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import main
from siren.cli.errors import Problem
from siren.cli.inputs import read_inputs
from siren.cli.options import TASKS, parse
from siren.cli.recipes import resolve
from siren.cli.several import Pictures
from siren.images import decode_image, fit_size, read_image, to_integers, write_png
from siren.npz import read_network
from siren.output.report import read_metrics

# The same examples every time: a failure is one of the program, not of chance.
same = settings(derandomize=True, database=None)
SIDES = st.integers(1, 40)
MODES = st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "16-bit gray", "16-bit RGB"])


def write_picture(path, height, width, mode, seed=0):
    rng = np.random.default_rng(seed)
    if mode.startswith("16-bit"):
        shape = (height, width, 3 if mode.endswith("RGB") else 1)
        write_png(path, rng.integers(0, 65536, shape, dtype=np.uint16))
    else:
        values = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
        picture = Image.fromarray(values)
        if not mode.endswith("A"):
            picture = picture.convert("RGB")
        picture.convert(mode).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("properties")


# ---- pictures ---------------------------------------------------------------------------------


@same
@given(SIDES, SIDES, MODES, st.sampled_from([1, 3]), st.integers(8, 64), st.booleans())
def test_every_picture_is_read_in_range(folder, height, width, mode, channels, side, keep):
    path = folder / "picture.png"
    write_picture(path, height, width, mode)
    assert decode_image(path, channels).size == (height, width)
    own = read_image(path, channels)
    try:
        size = fit_size(height, width, side, "keep" if keep else "square")
    except ValueError:
        assert keep
        assert min(height, width) / max(height, width) * side < 8
        size = (8, 8)
    resized = read_image(path, channels, size)
    assert own.shape == (height, width, channels)
    assert resized.shape == (*size, channels)
    for image in (own, resized):
        assert image.dtype == np.float32
        assert image.min() >= -1
        assert image.max() <= 1


@same
@given(SIDES, SIDES, st.sampled_from([1, 3]), st.sampled_from([8, 16]), st.integers(0, 99))
def test_what_is_written_is_read_again(folder, height, width, channels, bits, seed):
    shape = (height, width, channels)
    values = np.random.default_rng(seed).integers(0, 2**bits, shape).astype(f"uint{bits}")
    image = values / ((2**bits - 1) / 2) - 1
    write_png(folder / "written.png", image, bits)
    assert (to_integers(read_image(folder / "written.png", channels), bits) == values).all()


# ---- options ----------------------------------------------------------------------------------

CHOICES = {
    "recipe": ["report", "tuned", "best"],
    "channels": ["1", "3", "2", "gray"],
    "sidelength": ["8", "13", "24", "7", "0", "1e3"],
    "aspect": ["square", "keep", "free"],
    "points": ["1", "30", "64", "1000", "0", "-5"],
    "epochs": ["1", "3", "0", "2.5"],
    "lr": ["1e-4", "1e30", "0", "-1e-4", "nan", "inf", "fast"],
    "optimizer": ["adam", "muon", "sgd"],
    "schedule": ["constant", "linear", "cosine", "step"],
    "operator": ["forward", "autograd", "fd", "sobel"],
    "residual_norm": ["operator", "energy", "pixel", "l1"],
    "prior": ["none", "tv", "l2"],
    "prior_weight": ["1e-3", "0", "-1"],
    "hold_out": ["0", "0.05", "0.9", "1", "-0.1"],
    "blend": ["mixed", "average", "max"],
    "alpha": ["0", "0.3", "1", "1.1"],
    "offset": ["0 0", "-2 3", "1", "a b"],
    "omega_0": ["30", "1e-3", "0", "-30"],
    "hidden_features": ["1", "16", "0"],
    "hidden_layers": ["0", "3", "-1"],
    "seed": ["0", "7", "-1", "2147483648"],
    "crop": ["0 0 1 1", "-1 -1 -0.5 1", "1 1 0 0", "0 0 0 2", "-1e-1 -1 1e0 1"],
    "mask_path": ["mask.png", "black.png", "none.png"],
    "input_path": ["picture.png", "narrow.png", "picture.png narrow.png", "none.png", "."],
    "ot_image_path": ["narrow.png", "none.png"],
    "preview_every": ["0", "2", "-1"],
    "engine": ["fused", "reference", "magic"],
    "precision": ["auto", "fp32", "fp8"],
    "nonsense": ["1"],
}
OPTIONS = st.lists(st.sampled_from(sorted(CHOICES)), max_size=5, unique=True).flatmap(
    lambda names: st.tuples(*(st.tuples(st.just(n), st.sampled_from(CHOICES[n])) for n in names))
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of what the options above name."""
    folder = tmp_path_factory.mktemp("pictures")
    write_picture(folder / "picture.png", 30, 40, "RGB")
    write_picture(folder / "narrow.png", 6, 40, "16-bit gray")
    mask = np.zeros((20, 20), np.uint8)
    Image.fromarray(mask).save(folder / "black.png")
    mask[5:12, 5:15] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    return folder


@pytest.mark.parametrize("examples", [200, pytest.param(800, marks=pytest.mark.soak)])
def test_options_are_refused_in_one_sentence_or_give_a_plan(pictures, examples):
    seen = {"refused": 0, "planned": 0}

    @settings(same, max_examples=examples)
    @given(st.sampled_from(TASKS), OPTIONS)
    def check(task, chosen):
        render = task == "render"
        arguments = ["--task", "render" if render else "all"]
        arguments += [] if render else ["--sidelength", "24"]
        for name, text in chosen:
            values = [
                str(pictures / value) if name.endswith("_path") else value for value in text.split()
            ]
            arguments += [f"--{name}", *values]
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                options = parse(arguments)
            if not render:
                options = next(each for each in options.experiments if each.task == task)
        except SystemExit as end:
            assert end.code == 2
            (line,) = said.getvalue().splitlines()
            assert line.startswith("main.py: error: ")
            seen["refused"] += 1
            return
        assert said.getvalue() == ""
        if render:
            row_0, column_0, row_1, column_1 = options.crop
            assert -1 <= row_0 < row_1 <= 1
            assert -1 <= column_0 < column_1 <= 1
            return
        try:
            runs = [run.options for run in Pictures(options).runs]
            inputs = [read_inputs(each) for each in runs]
            settings = [resolve(each, *read.extent) for each, read in zip(runs, inputs)]
        except Problem as problem:
            assert str(problem).startswith("--")
            assert "\n" not in str(problem)
            seen["refused"] += 1
            return
        seen["planned"] += 1
        assert len({each.output_dir for each in runs}) == len(runs)
        for each, read in zip(settings, inputs):
            plan = main.make_task(each, read)
            assert plan.reference.shape == read.image.shape
            assert plan.reference.shape[2] == each.channels
            assert len(plan.points) == len(plan.points.target) >= 1
            assert np.abs(plan.points.coordinates).max() <= 1
            assert np.isfinite(plan.points.target).all()

    check()
    assert seen["refused"] > 40  # the options are neither too good nor too bad
    assert seen["planned"] > 40


# ---- trainings --------------------------------------------------------------------------------

# One network: another would have Jittor compile, which says nothing about options.
NETWORK = ["--hidden_features", "32", "--device", "cpu", "--engine", "fused"]
FILES = {"output.png", "reference.png", "panel.png", "metrics.json", "network.npz"}
FILES |= {"history.csv", "history.png"}
MORE = {"poisson": {"gradient.png", "laplacian.png"}, "inpaint": {"masked.png"}}
MORE["edit"] = MORE["poisson"]


RUNS = st.tuples(
    st.sampled_from(["fit", "poisson", "edit", "inpaint"]),
    st.sampled_from(["report", "tuned"]),
    st.integers(9, 40),
    st.integers(9, 40),
    MODES,
    st.sampled_from([1, 3]),
    st.integers(8, 24),
    st.booleans(),
    st.integers(1, 3),
    st.integers(0, 99),
)


@pytest.mark.parametrize("examples", [12, pytest.param(30, marks=pytest.mark.soak)])
def test_every_small_run_ends_well(folder, examples):
    @settings(same, max_examples=examples)
    @given(RUNS)
    def check(chosen):
        check_small_run(folder, *chosen)

    check()


def check_small_run(folder, task, recipe, height, width, mode, channels, side, keep, epochs, seed):
    path, output = folder / "input.png", folder / f"run-{task}"
    write_picture(path, height, width, mode, seed)
    arguments = ["--task", task, "--recipe", recipe, "--channels", channels, "--seed", seed]
    arguments += ["--sidelength", side, "--aspect", "keep" if keep else "square"]
    arguments += ["--epochs", epochs, "--input_path", path]
    arguments += ["--points", 40] if task == "inpaint" else []
    arguments += ["--ot_image_path", path] if task == "edit" else []
    arguments += ["--output_dir", output, *NETWORK]
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(said):
        patch.setattr(sys, "argv", ["main.py", *map(str, arguments)])
        status = main.main()
    try:
        size = fit_size(height, width, side, "keep" if keep else "square")
    except ValueError:
        assert status == 2
        return
    assert status == 0, said.getvalue()
    files = {entry.name for entry in output.iterdir()}
    assert files == FILES | MORE.get(task, set())
    metrics = read_metrics(output)
    assert all(math.isfinite(metrics[name]) for name in ("psnr", "ssim", "loss", "seconds"))
    with Image.open(output / "output.png") as picture:
        assert picture.size == size[::-1]
    assert (output / "output.png").read_bytes()[24] == (16 if mode.startswith("16") else 8)
    saved = read_network(output / "network.npz")
    assert saved.shape == size
    assert len(saved.layers[-1][1]) == channels
    with (output / "history.csv").open() as file:
        assert len(list(csv.DictReader(file))) == epochs + 1
