"""The panel of two runs."""

import json

import numpy as np
import pytest
from PIL import Image

from siren.files import ForeignFile
from siren.images import encode_png
from siren.output.panel import PANEL, main, write_comparison
from siren.runtime.messages import Problem

REFERENCE = np.linspace(-1, 1, 16 * 24).reshape(16, 24, 1).astype(np.float32)


def save_run(folder, recipe, output, reference=REFERENCE, psnr=30.0):
    """What the panel reads of a run's results."""
    folder.mkdir()
    (folder / "reference.png").write_bytes(encode_png(reference))
    (folder / "output.png").write_bytes(encode_png(output))
    options = {"recipe": recipe, "channels": reference.shape[2]}
    metrics = {"options": options, "ended": "finished", "inputs": "hash", "epochs": 9}
    metrics.update(psnr=psnr, ssim=0.9, seconds=12.0)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


@pytest.fixture
def runs(tmp_path):
    return [
        save_run(tmp_path / "report", "report", 0 * REFERENCE),
        save_run(tmp_path / "tuned", "tuned", REFERENCE),
    ]


def test_both_runs_are_drawn_with_their_errors(runs, tmp_path):
    path = write_comparison(runs, tmp_path / "both")
    assert path == tmp_path / "both" / PANEL
    sheet = np.asarray(Image.open(path))
    assert sheet.shape[2] == 3
    assert sheet.shape[1] > 3 * 256 and sheet.shape[0] > 2 * 176  # five pictures: three and two
    write_comparison(runs[::-1], tmp_path / "both")  # it may be replaced
    assert (np.asarray(Image.open(path)) != sheet).any()


def test_a_panel_of_the_user_stays(runs, tmp_path):
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / PANEL).write_bytes(encode_png(REFERENCE))
    before = (tmp_path / "both" / PANEL).read_bytes()
    with pytest.raises(ForeignFile, match="is not as this program wrote it"):
        write_comparison(runs, tmp_path / "both")
    assert (tmp_path / "both" / PANEL).read_bytes() == before


def test_what_cannot_be_compared_is_said_in_a_sentence(runs, tmp_path, capsys):
    with pytest.raises(Problem, match="has no results"):
        write_comparison([runs[0], tmp_path], tmp_path / "both")
    other = save_run(tmp_path / "other", "tuned", REFERENCE, reference=-REFERENCE)
    with pytest.raises(Problem, match="not of the same picture"):
        write_comparison([runs[0], other], tmp_path / "both")
    (runs[1] / "output.png").write_bytes(b"damaged")
    assert main([str(runs[0]), str(runs[1]), str(tmp_path / "both")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(runs[1]) in line
    assert main([]) == 2
    assert not (tmp_path / "both").exists()
