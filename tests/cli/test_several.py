"""Several pictures in one call."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from program import call, draw, go_on, network, paused, run, statuses

from siren.cli.options import parse
from siren.cli.several import Pictures, find_pictures, folder_names
from siren.images import ImageError, write_png
from siren.output.report import SummaryRow, format_table

SMALL = ["--sidelength", "24", "--hidden_features", "32", "--device", "cpu", "--epochs", "3"]


def make_photos(folder):
    """A folder of three pictures, and of things that are none."""
    folder.mkdir()
    for number, name in enumerate(("b.PNG", "a.jpg", "c.tif")):
        draw(folder / name, (48, 36), number)
    (folder / "notes.txt").write_text("no picture")
    (folder / "._a.jpg").write_bytes(b"what macOS leaves")
    (folder / "folder.png").mkdir()
    return folder


@pytest.fixture
def photos(tmp_path):
    return make_photos(tmp_path / "photos")


# ---- which pictures, and where to -------------------------------------------------------------


def test_the_pictures_of_a_folder_are_sorted_and_nothing_else_is(photos):
    names = [path.name for path in find_pictures([photos])]
    assert names == ["a.jpg", "b.PNG", "c.tif"]


def test_files_keep_their_order_and_are_one_picture_however_often_named(photos, tmp_path):
    other = tmp_path / "z.png"
    (tmp_path / "link").symlink_to(photos)
    paths = [other, photos / "c.tif", photos, tmp_path / "link", photos / ".." / "z.png"]
    assert [path.name for path in find_pictures(paths)] == ["z.png", "c.tif", "a.jpg", "b.PNG"]


def test_a_folder_without_pictures(photos):
    with pytest.raises(ImageError, match="folder without pictures"):
        find_pictures([photos, photos / "folder.png"])


def test_every_picture_has_a_folder_of_its_own():
    paths = ["x/a.png", "y/a.jpg", "a-2.png", ".png", ".hidden.png", "summary.csv.png", "b.c.png"]
    names = folder_names([Path(path) for path in paths])
    assert names[:4] == ["a", "a-2", "a-2-2", "png"]
    assert names[4:] == ["hidden", "summary.csv-2", "b.c"]
    many = folder_names([Path(path) for path in ("a.x", "a-3.x", "a-2.x") * 7])
    assert len(set(many)) == 21
    assert not any(name.startswith(".") for name in names)


def test_the_table_is_aligned():
    rows = [
        SummaryRow("long/name.png", "long", "fit", 9.876, 0.5, 1234.5, "finished"),
        SummaryRow("b", "b", "inpaint", None, None, None, "not begun"),
    ]
    head, first, second = format_table(rows).splitlines()
    assert first.split() == ["long/name.png", "fit", "9.88", "dB", "0.500", "1234.5", "finished"]
    assert first.index("finished") == second.index("not begun") == head.index("status")
    assert first.index("fit") == second.index("inpaint") == head.index("task")


# ---- runs -------------------------------------------------------------------------------------


def test_each_picture_is_trained_as_if_alone(photos, tmp_path):
    inpaint = ["--task", "inpaint", "--points", 100, "--recipe", "tuned", *SMALL]
    result = run(*inpaint, "--input_path", photos / "c.tif", photos, "--output_dir", tmp_path / "o")
    assert result.returncode == 0, result.stderr
    names = {path.name for path in (tmp_path / "o").iterdir()}
    assert names == {*"abc", "summary.csv", "index.html"}
    with (tmp_path / "o" / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["folder"] for row in rows] == ["c", "a", "b"]
    assert [Path(row["image"]).name for row in rows] == ["c.tif", "a.jpg", "b.PNG"]
    for row in rows:
        folder = tmp_path / "o" / row["folder"]
        metrics = json.loads((folder / "metrics.json").read_text())
        assert metrics["options"]["input_path"] == row["image"]
        assert float(row["psnr"]) == metrics["psnr"]
        assert float(row["ssim"]) == metrics["ssim"]
        assert float(row["seconds"]) == metrics["seconds"]
        assert (row["task"], row["status"]) == ("inpaint", "finished")
        alone = tmp_path / "alone" / row["folder"]
        assert call(*inpaint, "--input_path", row["image"], "--output_dir", alone).returncode == 0
        assert network(folder) == network(alone)
        assert {p.name for p in folder.iterdir()} == {p.name for p in alone.iterdir()}
    *shown, page = result.stdout.splitlines()[-4:]
    assert page.startswith("all runs to look at:")
    assert [line.split()[0] for line in shown] == [row["image"] for row in rows]


def test_a_folder_of_one_picture_is_a_single_run(photos, tmp_path):
    (photos / "a.jpg").unlink()
    (photos / "b.PNG").unlink()
    result = call(*SMALL, "--input_path", photos, "--output_dir", tmp_path / "o")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "o" / "output.png").exists()
    assert not (tmp_path / "o" / "summary.csv").exists()


def test_one_second_image_for_all_of_edit(photos, tmp_path):
    pair = ["--input_path", photos / "a.jpg", photos / "b.PNG", "--ot_image_path", photos / "c.tif"]
    result = call("--task", "edit", *SMALL, *pair, "--output_dir", tmp_path)
    assert result.returncode == 0, result.stderr
    for name in ("a", "b"):
        options = json.loads((tmp_path / name / "metrics.json").read_text())["options"]
        assert options["ot_image_path"] == str(photos / "c.tif")


def test_bad_input_is_found_before_anything_is_trained(photos, tmp_path):
    (photos / "z.png").write_text("no picture")
    result = call(*SMALL, "--input_path", photos, "--output_dir", tmp_path / "o")
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "z.png" in line
    assert result.stdout == ""
    assert not (tmp_path / "o").exists()


def test_the_others_run_when_one_cannot(photos, tmp_path):
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "a").write_text("in the way")
    result = run(*SMALL, "--input_path", photos, "--output_dir", tmp_path / "o")
    assert result.returncode == 2
    assert "a.jpg: --output_dir" in result.stderr
    assert "Traceback" not in result.stderr
    blocked, *others = statuses(tmp_path / "o").values()
    assert blocked.startswith("failed: --output_dir")
    assert others == ["finished", "finished"]
    assert (tmp_path / "o" / "a").read_text() == "in the way"


def test_all_are_run_though_each_diverges(photos, tmp_path):
    wild = ["--epochs", 30, "--lr", 1e30]
    result = run(*SMALL, *wild, "--input_path", photos, "--output_dir", tmp_path / "o")
    assert result.returncode == 3
    assert statuses(tmp_path / "o") == dict.fromkeys("abc", "diverged")


EPOCHS = 300
MANY = [*SMALL, "--epochs", EPOCHS]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a call that was not interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    photos = make_photos(folder / "photos")
    assert call(*MANY, "--input_path", photos, "--output_dir", folder / "out").returncode == 0
    return folder / "out"


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.soak)]
)
def test_an_interrupted_call_resumes_where_it_was(photos, whole, tmp_path, number):
    folder = tmp_path / "interrupted"
    many = [*MANY, "--input_path", photos, "--output_dir", folder]
    with paused(EPOCHS + 1 + 20, *many) as process:  # in the second picture
        ended = go_on(process, number)
    assert ended.returncode == 130
    assert "1 of 3 not begun; --resume goes on" in ended.stderr
    assert statuses(folder) == {"a": "finished", "b": "interrupted", "c": "not begun"}
    assert (folder / "b" / "state.npz").exists()
    assert not (folder / "c").exists()

    other = call(*many, "--resume", "--lr", "0.5")
    assert other.returncode == 2
    assert "--lr 0.5 is not that of the earlier run, 0.0001" in other.stderr
    assert len(other.stderr.splitlines()) == 1

    finished = (folder / "a" / "network.npz").stat().st_mtime_ns
    again = run(*many, "--resume")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("resumed at epoch") == 1
    assert again.stdout.count("--resume begins a new run") == 1
    assert (folder / "a" / "network.npz").stat().st_mtime_ns == finished
    assert statuses(folder) == dict.fromkeys("abc", "finished")
    for name in "abc":
        assert network(whole / name) == network(folder / name)
        assert {p.name for p in (whole / name).iterdir()} == {
            p.name for p in (folder / name).iterdir()
        }
    again = call(*many, "--resume")
    assert again.returncode == 0
    assert "==" not in again.stdout

    Image.new("L", (40, 40)).save(photos / "a.jpg")
    changed = call(*many, "--resume")
    assert changed.returncode == 2
    assert "the input image is not that of the earlier run" in changed.stderr


def test_names_that_are_no_text(photos, tmp_path):
    odd = os.fsdecode(bytes(photos) + b"/\xff.png")
    (photos / "b.PNG").rename(odd)
    result = call(*SMALL, "--input_path", photos, "--output_dir", tmp_path / "o")
    assert result.returncode == 0, result.stderr
    assert len(statuses(tmp_path / "o")) == 3


def test_the_check_tells_what_a_rehearsal_needs(tmp_path):
    noise = np.random.default_rng(0).uniform(-1, 1, (8, 8, 1)).astype(np.float32)
    for name, bits in (("a.png", 16), ("b.png", 8)):
        write_png(tmp_path / name, noise, bits)
    arguments = ["--input_path", str(tmp_path), "--sidelength", "8", "--output_dir"]
    pictures = Pictures(parse([*arguments, str(tmp_path / "out"), "--recipe", "tuned"]))
    pictures.check([])
    assert [run.bits for run in pictures.runs] == [16, 8]
    assert all(run.settings.epochs is not None for run in pictures.runs)
    assert not (tmp_path / "out").exists()
