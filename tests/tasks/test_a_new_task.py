"""How a task is added: a module, and a line of ``TASKS``, are all that the program needs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODULE = '''
"""Negative: the network learns an image with black and white exchanged."""

from siren import losses
from siren.pictures import Picture
from siren.samples import Points
from siren.tasks import TASKS
from siren.tasks.task import Task


class Negative(Task):
    """Pixel mean squared error against the negative of ``image``."""

    declared = TASKS["negative"]
    scored_as = "all pixels against the negative"

    def __init__(self, image):
        height, width, channels = image.shape
        self.image, self.reference = image, -image
        self.points = Points((height, width), self.reference.reshape(-1, 1, channels))
        self.panel_pictures = [Picture("image", image)]

    @classmethod
    def make(cls, settings, pictures, prior):
        return cls(pictures.image)

    def loss(self, network, batch, engine):
        return losses.pixel_mse(network, batch, engine)

    def pictures(self, derivatives):
        return [lambda: self.image]
'''
LINE = '    "negative": Declaration(arrays=6, files=("positive.png",)),\n'


def test_a_task_takes_two_files(tmp_path):
    shutil.copytree(ROOT / "siren", tmp_path / "siren")
    shutil.copy(ROOT / "main.py", tmp_path)
    (tmp_path / "siren" / "tasks" / "negative.py").write_text(MODULE)
    table = tmp_path / "siren" / "tasks" / "__init__.py"
    table.write_text(table.read_text().replace("TASKS = {\n", "TASKS = {\n" + LINE))

    def train(*arguments):
        command = [sys.executable, "main.py", "--task", "negative", *map(str, arguments)]
        settings = {**os.environ, "PYTHONPATH": ""}
        return subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, text=True)

    small = ["--sidelength", 16, "--hidden_features", 16, "--hidden_layers", 1, "--epochs", 200]
    small += ["--engine", "reference", "--device", "cpu", "--lr", "1e-3"]
    picture = ["--input_path", ROOT / "data" / "camera.png", "--output_dir", tmp_path / "results"]
    result = train(*small, *picture)
    assert (result.returncode, result.stderr) == (0, "")
    metrics = json.loads((tmp_path / "results" / "metrics.json").read_text())
    assert metrics["scored"] == "all pixels against the negative"
    assert metrics["psnr"] > 12
    assert (tmp_path / "results" / "positive.png").exists()
    assert "positive.png" in metrics["files"]

    assert "negative" in train("--help").stdout
    refused = train("--blend", "mixed")
    assert refused.returncode == 2
    assert "--blend is for --task edit" in refused.stderr
    (tmp_path / "results" / "positive.png").write_text("somebody else's")
    refused = train(*small, *picture)
    assert refused.returncode == 2
    assert "positive.png is not as this program wrote it" in refused.stderr
