"""history.png, where matplotlib is installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
from siren.output.curves import draw_curves
from siren.training.history import Epoch
history = [Epoch(0, 1.0, None, 10.0, 0.1), Epoch(1, 0.5, None, 12.0, 0.2)]
print(draw_curves(history)[1:4])
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
