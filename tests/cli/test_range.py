"""``--range``, and what a run says about the numbers of its files."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from siren.cli import inputs
from siren.cli.errors import Problem
from siren.cli.options import identity_options, parse

SHARE = np.linspace(0, 1, 16 * 20).reshape(16, 20)


@pytest.fixture
def options(tmp_path, monkeypatch):
    """Options of a run on files in ``tmp_path``, by their names."""
    monkeypatch.setattr(inputs, "_told", set())

    def options(arguments):
        words = [
            str(tmp_path / word) if word.endswith((".tif", ".png", ".gif")) else word
            for word in arguments.split()
        ]
        parsed = parse([*words, "--sidelength", "16"])
        (parsed.input_path,) = parsed.input_path
        return parsed

    return options


def test_range_is_for_images_and_not_for_masks(options, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", (SHARE * 4095).astype(np.uint16))
    tifffile.imwrite(tmp_path / "b.tif", (SHARE[::-1] * 4095).astype(np.float32))
    Image.fromarray(((SHARE > 0.5) * 255).astype(np.uint8)).save(tmp_path / "m.png")
    given = "--task edit --input_path a.tif --ot_image_path b.tif --mask_path m.png"
    read = inputs.read_inputs(options(f"{given} --range 0 4095"))
    for picture in (read.image, read.other):
        assert picture.min() < -0.9 and picture.max() > 0.9
    assert 0.3 < read.mask.mean() < 0.7 and read.bits == 16
    with pytest.raises(Problem, match=r"--ot_image_path: .* from 0 to 4095.*--range LOW HIGH"):
        inputs.read_inputs(options(given))


def test_what_is_lost_is_said_once(options, tmp_path, capsys):
    tifffile.imwrite(tmp_path / "a.tif", (SHARE * 4095).astype(np.uint16))
    for _ in range(2):
        inputs.read_inputs(options("--input_path a.tif"))
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("--input_path: the largest value of ")
    assert line.endswith("is 4095 of 65535: if 4095 is white, add --range 0 4095")
    inputs.read_inputs(options("--input_path a.tif --range 0 2047.5"))
    (line,) = capsys.readouterr().out.splitlines()
    assert "50 % of the pixels of " in line and "or above HIGH (2047.5)," in line


def test_a_picture_is_decoded_once(options, tmp_path, monkeypatch):
    Image.fromarray((SHARE * 255).astype(np.uint8)).save(tmp_path / "a.png")
    Image.fromarray((SHARE * 255).astype(np.uint8)).save(tmp_path / "b.png")
    Image.fromarray(((SHARE > 0.5) * 255).astype(np.uint8)).save(tmp_path / "m.png")
    opened, open_ = [], Image.open
    monkeypatch.setattr(Image, "open", lambda f, *how: opened.append(f.name[-5:]) or open_(f, *how))
    given = "--task edit --input_path a.png --ot_image_path b.png --mask_path m.png"
    inputs.read_inputs(options(given))
    assert sorted(opened) == ["a.png", "b.png", "m.png"]


def test_range_is_part_of_what_a_run_is(options, tmp_path):
    Image.fromarray((SHARE * 255).astype(np.uint8)).save(tmp_path / "a.png")
    settings = identity_options(options("--input_path a.png --range -1e-2 2.5"))
    assert settings["range"] == [-0.01, 2.5]
    assert identity_options(options("--input_path a.png"))["range"] is None


@pytest.mark.parametrize("given", ["1 1", "2 1", "nan 1", "0 inf", "0", "0 1 2", "a b"])
def test_a_range_that_is_none(given, capsys):
    with pytest.raises(SystemExit) as end:
        parse(f"--range {given}".split())
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--range" in line or "unrecognized arguments: 2" in line
