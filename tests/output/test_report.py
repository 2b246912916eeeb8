"""history.png, where matplotlib is installed."""

import builtins
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from siren.output.report import draw_history
from siren.training.progress import Epoch

CODE = """
from siren.output.report import draw_history
from siren.training.progress import Epoch
history = [Epoch(0, 1.0, None, 10.0, 0.1), Epoch(1, 0.5, None, 12.0, 0.2)]
print(draw_history(history)[1:4])
"""


def test_curves_are_drawn_quietly_where_matplotlib_has_no_folder():
    pytest.importorskip("matplotlib")
    result = subprocess.run(
        [sys.executable, "-c", CODE],
        env={**os.environ, "MPLCONFIGDIR": "/dev/null/none"},
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
    )
    assert (result.stdout, result.stderr) == ("b'PNG'\n", "")


def history(validation):
    return [Epoch(i, 1 / (i + 1), validation, 20.0 + i if i % 2 else None, i) for i in range(6)]


@pytest.mark.parametrize("validation", [None, 0.3])
def test_curves_where_matplotlib_is_installed(validation):
    pytest.importorskip("matplotlib", reason="matplotlib is not required")
    with Image.open(io.BytesIO(draw_history(history(validation)))) as drawn:
        assert min(drawn.size) > 300


@pytest.mark.parametrize("error", [ImportError, ValueError, SystemExit])
def test_no_curves_where_matplotlib_is_missing_or_broken(monkeypatch, error):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name.startswith("matplotlib"):
            raise error(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    assert draw_history(history(None)) is None
