"""Options: which count in which run, what values they take, and how bad ones are refused."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import re
import sys

import numpy as np
import pytest
from PIL import Image

from siren.cli import recipes
from siren.cli.inputs import read_inputs
from siren.cli.options import (
    BY_NAME,
    ROOT,
    TASKS,
    TRAINING,
    as_arguments,
    effective_options,
    make_parser,
    parse,
)
from siren.cli.recipes import default_points, resolve
from siren.cli.several import Pictures
from siren.text import printable


def refusal(arguments):
    """The one line that ``parse`` ends with."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), pytest.raises(SystemExit) as end:
        parse(arguments if isinstance(arguments, list) else arguments.split())
    assert end.value.code == 2
    (line,) = said.getvalue().splitlines()
    assert line.startswith("main.py: error: ")
    return line


# ---- which options count ----------------------------------------------------------------------

SAMPLES = {  # a value for each option, which may be its default
    "recipe": "report",
    "input_path": "a.png",
    "ot_image_path": "b.png",
    "mask_path": "m.png",
    "offset": "0 0",
    "output_dir": "o",
    "network_path": "n.npz",
    "crop": "-1 -1 1 1",
    "derivatives": "",
    "channels": "1",
    "sidelength": "256",
    "aspect": "square",
    "range": "0 4095",
    "points": "5000",
    "epochs": "1000",
    "batch_points": "9",
    "optimizer": "adam",
    "lr": "1e-4",
    "muon_lr": "5e-3",
    "schedule": "constant",
    "operator": "forward",
    "residual_norm": "operator",
    "prior": "none",
    "prior_weight": "5e-4",
    "hold_out": "0",
    "blend": "mixed",
    "alpha": "0.5",
    "preview_every": "0",
    "resume": "",
    "seed": "0",
    "omega_0": "30",
    "omega_first": "60",
    "hidden_features": "256",
    "hidden_layers": "3",
    "device": "auto",
    "engine": "fused",
    "precision": "auto",
    "verbose": "",
}
COMPANIONS = {  # what an option needs beside it
    "offset": "--mask_path m.png",
    "muon_lr": "--optimizer muon",
    "prior_weight": "--prior tv",
    "input_path": "--ot_image_path b.png",
    "ot_image_path": "--input_path a.png",
}


def test_the_table_has_every_option():
    assert set(BY_NAME) == {*SAMPLES, "task"}
    assert list(BY_NAME) == re.findall(r"--(\w+)", make_parser().format_usage())
    assert set(vars(parse([]))) == set(BY_NAME)


def test_the_readme_has_the_table():
    rows = ["| option | default | |", "| --- | --- | --- |"]
    for option in BY_NAME.values():
        star = "*" if option.name in recipes.CHOSEN else ""
        default = f" {option.default_in_words} ".replace("  ", " ").replace("<task>", "TASK")
        rows.append(f"| `--{option.name}`{star} |{default}| {option.help} |")
    table = "\n".join(rows) + "\n"
    assert table in (ROOT / "siren" / "README.md").read_text(encoding="utf8"), table


@pytest.mark.parametrize(
    "arguments",
    [
        "--recipe tuned --channels 3 --verbose --range 0 4095",
        "--task inpaint --recipe tuned --points 7 --hold_out 0.1",
        "--task edit --mask_path m --offset -3 4 --blend average --alpha 0.25",
        "--task poisson --optimizer muon --muon_lr 1e-5 --device cpu --preview_every 3",
        "--task render --crop -1e-1 -0.5 0 0.5 --derivatives",
    ],
)
def test_options_as_arguments_are_the_same_options(arguments):
    options = parse(arguments.split())
    again = parse(as_arguments(options))
    assert effective_options(again) == effective_options(options)


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("task", TASKS)
def test_an_option_of_another_task_is_refused(task, name):
    """Also if it is given with its default."""
    arguments = f"--task {task} --{name} {SAMPLES[name]}"
    if task not in BY_NAME[name].tasks:
        line = refusal(arguments)
        assert f"--{name} is for {BY_NAME[name].scope}, and does nothing with --task {task}" in line
        return
    if task == "edit" or name != "input_path":
        arguments += f" {COMPANIONS.get(name, '')}"
    options = parse(arguments.split())
    assert name in effective_options(options)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--muon_lr 1e-3", "--muon_lr is for training with --optimizer muon"),
        ("--recipe tuned --optimizer adam --muon_lr 1e-3", "--muon_lr is for"),
        ("--recipe tuned --hidden_layers 0 --muon_lr 1e-3", "--muon_lr is for"),
        ("--prior_weight 1", "--prior_weight is for --task fit or inpaint with --prior tv"),
        ("--task inpaint --recipe tuned --prior none --prior_weight 1", "--prior_weight is for"),
        ("--task edit --offset 0 0", "--offset is for --task edit with --mask_path"),
        ("--task inpaint --mask_path m --points 9", "--points is for --task inpaint without"),
        ("--task edit --mask_path m --alpha 0.3", "--alpha is for --task edit with"),
        ("--engine reference --precision fp32", "--precision is for training with --engine fused"),
    ],
)
def test_an_option_without_the_one_that_it_needs_is_refused(arguments, words):
    line = refusal(arguments)
    assert words in line
    assert "and does nothing in this run; leave it out" in line


@pytest.mark.parametrize(
    "arguments",
    [
        "--recipe tuned --muon_lr 1e-3",
        "--task inpaint --recipe tuned --prior_weight 1",
        "--task edit --mask_path m --offset -3 4",
        "--task edit --mask_path m --blend average --alpha 0.3",
        "--task inpaint --mask_path m --hold_out 0.1",
        "--task render --engine reference --device cpu --verbose --output_dir o --sidelength 9",
    ],
)
def test_options_that_belong_together(arguments):
    options = parse(arguments.split())
    assert set(re.findall(r"--(\w+)", arguments)) <= set(effective_options(options))


@pytest.mark.parametrize(
    ("arguments", "absent", "present"),
    [
        ("--task poisson", "prior prior_weight hold_out points blend crop", "operator lr muon_lr"),
        ("--task fit", "operator residual_norm muon_lr prior_weight mask_path", "prior seed"),
        ("--task inpaint", "alpha ot_image_path", "points mask_path hold_out"),
        ("--task inpaint --mask_path m", "points", "mask_path"),
        ("--task edit", "offset points", "alpha blend ot_image_path mask_path"),
        ("--task render", "lr input_path seed recipe precision resume", "network_path crop engine"),
    ],
)
def test_what_counts(arguments, absent, present):
    options = parse(arguments.split())
    if "poisson" in arguments:
        options.optimizer = "muon"
    found = set(effective_options(options))
    assert not found & set(absent.split())
    assert found >= set(present.split())


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        ("--points 100", {"inpaint"}),
        ("--operator fd", {"poisson", "edit"}),
        ("--channels 3", set(TRAINING)),
        ("--alpha 0.3", {"edit"}),
        ("--mask_path m", {"inpaint", "edit"}),
        ("--prior tv --prior_weight 1", {"fit", "inpaint"}),
        ("--recipe tuned --prior_weight 1", {"inpaint"}),
        ("--input_path a --ot_image_path b", {"edit"}),
    ],
)
def test_options_of_all_tasks_are_left_out_where_they_do_nothing(arguments, where):
    *_, name, value = arguments.split()
    name = name[2:]
    experiments = parse([*arguments.split(), "--task", "all"]).experiments
    assert {options.task for options in experiments} == set(TRAINING)
    for options in experiments:
        task = options.task
        assert (name in effective_options(options)) == (task in where)
        own = vars(parse(["--task", task]))[name]
        given = str(vars(options)[name]) in (value, f"{value}.0")
        assert given if task in where else vars(options)[name] == own


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--crop 0 0 1 1", "--crop is for --task render, and does nothing in any of the four"),
        ("--muon_lr 1", "--muon_lr is for training with --optimizer muon"),
        ("--mask_path m --points 9", "--points is for --task inpaint without --mask_path"),
        ("--input_path a", "--task edit needs two images"),
        ("--points x", "--points: 'x' is not a whole number"),
        ("--colour 3", "--colour"),
    ],
)
def test_what_is_refused_for_all_tasks(arguments, words):
    assert words in refusal(f"--task all {arguments}")


def test_all_tasks_have_a_folder_each(tmp_path):
    experiments = parse(["--task", "all", "--output_dir", str(tmp_path)]).experiments
    assert [each.output_dir for each in experiments] == [
        tmp_path / each.task for each in experiments
    ]
    tuned = parse(["--task", "all", "--recipe", "tuned", "--output_dir", str(tmp_path)])
    assert all(each.output_dir == tmp_path / f"{each.task}-tuned" for each in tuned.experiments)
    assert parse(["--recipe", "tuned"]).output_dir.name == "fit-tuned"
    experiments = parse(["--task", "all"]).experiments
    assert [vars(each) for each in experiments] == [
        vars(parse(["--task", each.task])) for each in experiments
    ]


def test_the_help_names_the_tasks_of_each_option():
    """Those of the table, where it is not every training; render has a part of its own."""
    text = make_parser().format_help()
    assert text.isascii()
    entries = text[text.index("what to do:") :]
    for name, option in BY_NAME.items():
        entry = re.search(rf"\n  --{name} .*?(?=\n  --|\n\n|\Z)", entries, re.DOTALL)[0]
        if option.tasks not in (TASKS, TRAINING, ("render",)):
            assert all(task in entry for task in option.tasks), name


# ---- numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        ("--task render --crop -1e-1 -0.5 0 0.5", "crop", (-0.1, -0.5, 0, 0.5)),
        ("--task render --crop -.1e0 -5.e-1 -1E-2 .5", "crop", (-0.1, -0.5, -0.01, 0.5)),
        ("--task render --crop -1_0e-1 -１ +0 1", "crop", (-1, -1, 0, 1)),
        ("--task edit --mask_path m --offset -3 4", "offset", (-3, 4)),
        ("--task edit --mask_path m --offset 3 -1_0", "offset", (3, -10)),
        ("--lr 1e30", "lr", 1e30),
        ("--lr 1e-30", "lr", 1e-30),
        ("--omega_0 1e4", "omega_0", 1e4),
        ("--task edit --alpha 0", "alpha", 0),
        ("--epochs +１_000", "epochs", 1000),
        ("--input_path -1e-4 b", "input_path", None),
    ],
)
def test_numbers(arguments, name, value):
    options = parse(arguments.split())
    assert value is None or getattr(options, name) == value


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--lr -1e-4", "--lr: -1e-4 must be between 1e-30 and 1e+30"),
        ("--lr -.5", "--lr: -.5 must be"),
        ("--lr -5.", "--lr: -5. must be"),
        ("--lr -inf", "--lr: -inf must be"),
        ("--lr -NaN", "--lr: -NaN must be"),
        ("--lr nan", "--lr: nan must be"),
        ("--lr 1e31", "--lr: 1e31 must be"),
        ("--lr 1e-320", "--lr: 1e-320 must be"),
        ("--lr -x", "--lr: expected one argument"),
        ("--lr -1x", "--lr: '-1x' is not a number"),
        ("--muon_lr 1e31", "--muon_lr: 1e31 must be"),
        ("--omega_0 1e39", "--omega_0: 1e39 must be between 0.001 and 10000"),
        ("--omega_0 1e-30", "--omega_0: 1e-30 must be"),
        ("--omega_0 -1e1", "--omega_0: -1e1 must be"),
        ("--prior tv --prior_weight 1e300", "--prior_weight: 1e300 must be"),
        ("--prior tv --prior_weight 1e-320", "--prior_weight: 1e-320 must be"),
        ("--task edit --alpha -1e-9", "--alpha: -1e-9 must be"),
        ("--task render --crop -1e1 0 1 1", "--crop: -1e1 must be between -1 and 1"),
        ("--task render --crop 0 0 1e-20 1", "--crop: 0 0 1e-20 1 is empty"),
        ("--task render --crop 0.5 0 0.50000001 1", "--crop: 0.5 0 0.50000001 1 is empty"),
        ("--task render --crop -1 0 1", "--crop: expected 4 arguments"),
        ("--task edit --mask_path m --offset -1e0 0", "--offset: '-1e0' is not a whole number"),
        ("--hidden_features 65537", "between 1 and 65536"),
        ("--hidden_layers 1001", "between 0 and 1000"),
        ("--epochs 1000000001", "between 1 and 1000000000"),
        ("--seed -1", "--seed: -1 must be"),
        (f"--epochs {'9' * 500}", f"--epochs: {'9' * 37}... must be"),
        (f"--seed -{'9' * 500}", f"--seed: -{'9' * 36}... must be"),
        (f"--lr {'9' * 5000}", f"--lr: {'9' * 37}... must be"),
        (f"--epochs {'x' * 5000}", "... is not a whole number".replace("...", "...'")),
        ("--epochs 0x10", "'0x10' is not a whole number"),
    ],
)
def test_bad_numbers(arguments, words):
    assert words in refusal(arguments)


def test_points_are_the_reports_share_of_any_size():
    assert parse(["--task", "inpaint"]).points is None
    assert parse(["--task", "inpaint", "--points", "7"]).points == 7
    assert default_points(256 * 256) == 5000
    assert default_points(64 * 64) == 312
    assert default_points(8 * 8) == 5
    assert default_points(1) == 1
    assert default_points(16384**2) == 20480000


# ---- paths and text ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--output_dir", ""], "--output_dir: the path is empty"),
        (["--output_dir="], "--output_dir: the path is empty"),
        (["--input_path", ""], "--input_path: the path is empty"),
        (["--input_path", "a.png", ""], "--input_path: the path is empty"),
        (["--input_path", "a.png", "--input_path", ""], "--input_path: the path is empty"),
        (["--task", "edit", "--ot_image_path", ""], "--ot_image_path: the path is empty"),
        (["--task", "edit", "--mask_path", ""], "--mask_path: the path is empty"),
        (["--task", "render", "--network_path", ""], "--network_path: the path is empty"),
        (["--task", "a\nb"], "--task: invalid choice: 'a\\nb'"),
        (["--task", "\x1b[31mred"], "'\\x1b[31mred'"),
        (["\x1b[31mred\nline"], "unrecognized arguments: \\x1b[31mred\\nline"),
        (["--\u202e\x85\u2028\udcff"], "unrecognized arguments: --\\u202e\\x85\\u2028\\xff"),
        (["--lr", "1e99\n"], "--lr: 1e99\\n must be"),
        (["--派"], "unrecognized arguments: --派"),
        (["-5"], "unrecognized arguments: -5"),
        ([""], "unrecognized arguments"),
        (["--lr="], "--lr: '' is not a number"),
        (["--lr"], "--lr: expected one argument"),
        (["--sidelen", "64"], "--sidelen"),
    ],
)
def test_bad_text(arguments, words):
    assert words in refusal(arguments)


def test_paths_of_any_bytes_are_taken():
    options = parse(["--input_path", "\udcff", " ", "--input_path", "a\nb", "--output_dir", "-5"])
    assert list(map(str, options.input_path)) == ["\udcff", " ", "a\nb"]
    assert str(options.output_dir) == "-5"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 漢字 👩\u200d👧 \\n", "plain é 漢字 👩\u200d👧 \\n"),
        ("a\tb\nc\rd\0", "a\\tb\\nc\\rd\\x00"),
        ("\x1b[2J\x7f\x9b", "\\x1b[2J\\x7f\\x9b"),
        ("\u200e\u202d\u2066\u061c", "\\u200e\\u202d\\u2066\\u061c"),
        ("\x85\u2028\u2029", "\\x85\\u2028\\u2029"),
        ("\udc80\udcff\udc7f\ud800", "\\x80\\xff\\udc7f\\ud800"),
    ],
)
def test_printable(text, shown):
    assert printable(text) == shown
    assert printable(text).isprintable() or "\u200d" in text


def test_every_character_can_be_printed_in_one_line():
    everything = printable("".join(map(chr, range(sys.maxunicode + 1))))
    assert len(everything.splitlines()) == 1
    assert len(json.dumps(everything.encode().decode())) > sys.maxunicode


@pytest.mark.parametrize("task", ["inpaint", "edit"])
def test_a_mask_in_colour_counts_the_same_with_any_channels(task, tmp_path):
    colours = np.zeros((16, 16, 3), np.uint8)
    colours[2:5] = 255, 0, 0  # its red channel is white, its brightness below the middle
    colours[10:12] = 200, 0, 0
    Image.fromarray(colours).save(tmp_path / "mask.png")
    arguments = ["--task", task, "--sidelength", "16", "--mask_path", str(tmp_path / "mask.png")]
    masks = []
    for channels in ("1", "3"):
        (run,) = Pictures(parse([*arguments, "--channels", channels])).runs
        masks.append(read_inputs(run.options).mask)
    expected = np.zeros((16, 16), bool)
    expected[2:5] = expected[10:12] = True
    assert (masks[0] == expected).all()
    assert (masks[1] == expected).all()


@pytest.mark.parametrize(
    ("arguments", "rate", "muon_rate"),
    [
        ("--epochs 50", 1e-3, 5e-3),
        ("--epochs 1250", 1e-3, 5e-3),  # 5000 steps
        ("--epochs 5000", 2.5e-4, 4.35e-3),
        ("--epochs 5000 --lr 0.002", 2e-3, 4.35e-3),
        ("--epochs 5000 --muon_lr 0.002", 2.5e-4, 2e-3),
        ("--epochs 1250 --batch_points 4096", 2.5e-4, 4.35e-3),
        ("--epochs 10000 --task inpaint --points 5000", 5e-4, 7.46e-3),
        ("--task poisson --operator forward", 1e-3, 1e-2),
    ],
)
def test_tuned_rates_fall_with_the_steps_of_a_long_training(arguments, rate, muon_rate):
    options = parse(["--recipe", "tuned", *arguments.split()])
    options = resolve(options, (256, 256))
    assert (options.lr, options.muon_lr) == (rate, muon_rate)
    options = parse(["--optimizer", "muon", "--epochs", "100000"])
    options = resolve(options, (256, 256))
    assert (options.lr, options.muon_lr) == (1e-4, 5e-3)


@pytest.mark.parametrize(
    ("arguments", "side", "units", "passes"),
    [
        ("", 64, 256, 50),
        ("--channels 3", 256, 256, 50),
        ("", 448, 256, 50),
        ("", 512, 384, 22),
        ("--channels 3", 320, 256, 50),
        ("--channels 3", 384, 384, 22),
        ("--channels 3", 512, 384, 22),
        ("--channels 3", 1024, 512, 12),
        ("--channels 3", 2048, 768, 5),
        ("--channels 3", 16384, 1024, 3),
        ("--epochs 50 --channels 3", 512, 512, 50),
        ("--epochs 100 --channels 3", 512, 768, 100),
        ("--epochs 5000 --channels 3", 512, 1024, 5000),
        ("--epochs 5000", 256, 256, 5000),  # which has few values
        ("--epochs 2 --channels 3", 1024, 512, 2),
        ("--hidden_features 256 --channels 3", 512, 256, 50),
        ("--hidden_features 768 --channels 3", 512, 768, 22),
        ("--task poisson --channels 3", 512, 384, 22),
        ("--task inpaint", 512, 256, 200),
        ("--task edit --operator forward", 512, 256, 200),
    ],
)
def test_the_tuned_network_grows_with_the_picture(arguments, side, units, passes):
    options = resolve(parse(["--recipe", "tuned", *arguments.split()]), (side, side))
    assert (options.hidden_features, options.epochs) == (units, passes)


def test_a_default_costs_no_more_than_50_passes_of_256_units():
    for pixels, channels in itertools.product(np.geomspace(1, 2**28, 500).astype(int), (1, 3)):
        units, passes = recipes.default_size(pixels, channels)
        assert passes * units**2 <= 50 * 256**2
        assert recipes.default_width(pixels, channels, passes) == units
        widths = [recipes.default_width(pixels, channels, n) for n in (1, 10, 100, 1000)]
        assert widths == sorted(widths)


def test_wider_networks_begin_with_higher_frequencies_and_smaller_steps():
    shape = 512, 512
    color = ["--recipe", "tuned", "--channels", "3"]
    usual = resolve(parse([*color, "--hidden_features", "256"]), shape)
    wide = resolve(parse([*color, "--hidden_features", "2048"]), shape)
    assert wide.omega_first == pytest.approx(4 * usual.omega_first, rel=1e-3)
    assert wide.muon_lr == pytest.approx(usual.muon_lr / 2, rel=1e-2)
    narrow = resolve(parse([*color, "--hidden_features", "64"]), shape)
    assert (narrow.omega_first, narrow.muon_lr) == (usual.omega_first, usual.muon_lr)


@pytest.mark.parametrize(
    "share, frequency, weight, epochs", [(0.05, 10, 1.6e-3, 200), (0.8, 28.28, 2e-4, 100)]
)
def test_many_given_pixels_want_higher_frequencies_less_of_a_prior_and_fewer_passes(
    share, frequency, weight, epochs
):
    inpaint = ["--task", "inpaint", "--recipe", "tuned"]
    options = resolve(parse(inpaint), (256, 256), given=round(share * 256**2))
    assert (options.omega_first, options.prior_weight) == (frequency, weight)
    assert options.epochs == epochs
    given = [*inpaint, "--prior_weight", "1", "--epochs", "200"]
    options = resolve(parse(given), (256, 256), given=60000)
    assert (options.prior_weight, options.epochs) == (1, 200)
    options = resolve(parse(["--task", "fit", "--prior", "tv"]), (256, 256))
    assert (options.omega_first, options.prior_weight) == (None, 5e-4)
