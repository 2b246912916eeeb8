import sys
import types
import warnings

import numpy as np
import pytest
from PIL import Image

import siren
from siren.notebook import is_notebook, progress_bar
from siren.pictures import Picture
from siren.training.progress import Progress, Training

IMAGE = np.linspace(-1, 1, 8 * 12, dtype=np.float32).reshape(8, 12, 1)


@pytest.fixture
def displayed(monkeypatch):
    """A notebook without ipywidgets; what it displays."""
    shown = []
    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    ipython.display = types.ModuleType("IPython.display")
    ipython.display.display = shown.append
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", ipython.display)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    return shown


def test_show_returns_a_picture():
    sheet = siren.show(IMAGE, captions="gray")
    assert isinstance(sheet, Image.Image) and sheet.mode == "RGB"
    bare = siren.show(IMAGE[..., 0])
    assert bare.width == sheet.width and bare.height < sheet.height
    several = siren.show(IMAGE.repeat(3, 2).astype(np.float64), Picture("own", IMAGE), IMAGE)
    assert several.width > 2 * sheet.width
    assert several.size == siren.show(IMAGE, Picture("own", IMAGE), IMAGE, captions=("a", "b")).size


def test_show_displays_in_a_notebook(displayed):
    assert siren.show(IMAGE) is None
    assert [type(sheet) for sheet in displayed] == [Image.Image]


@pytest.mark.parametrize(
    ("images", "captions", "message"),
    [
        ([], (), "needs an image"),
        ([IMAGE], ["a", "b"], "2 captions for 1 arrays"),
        ([IMAGE, Picture("own", IMAGE)], ["a", "b"], "2 captions for 1 arrays"),
        ([np.zeros((4, 4, 2))], (), "shape"),
        ([np.zeros(4)], (), "shape"),
        ([np.zeros((0, 4, 1))], (), "shape"),
        ([np.zeros((4, 4), np.uint8)], (), "uint8"),
        ([np.full((4, 4), np.nan)], (), "NaN"),
    ],
)
def test_show_says_what_is_wrong(images, captions, message):
    with pytest.raises(ValueError, match=message):
        siren.show(*images, captions=captions)


def test_a_terminal_with_ipython_is_no_notebook(displayed, monkeypatch):
    assert is_notebook()
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: object())
    assert not is_notebook()
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: None)
    assert not is_notebook()


def test_a_notebook_without_ipywidgets_has_a_bar_of_text(displayed, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Progress(Training(), 4, 0, 0.0) as progress:
            progress.move(4)
    assert "4/4" in capsys.readouterr().err


def test_no_bar_in_a_file(capsys):
    with Progress(Training(), 4, 0, 0.0) as progress:
        progress.move(4)
    assert capsys.readouterr().err == ""
    with progress_bar(total=4) as bar:
        bar.update(4)
    assert "4/4" in capsys.readouterr().err
