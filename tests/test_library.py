"""The Python of siren/README.md, as a reader would run it."""

import os
import re

import numpy as np
import pytest
from numpy_siren import float64, value
from program import ROOT, python

import siren
from siren.samples import grid

README = (ROOT / "siren" / "README.md").read_text(encoding="utf8")
LIBRARY, IN_NUMPY, IN_PYTORCH = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def drawn(saved, side):
    """The picture (side * side, channels) of a network of a file, in float64."""
    return value(float64(saved.layers), saved.omega_0, grid(side, side).astype(np.float64))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the library's example has been run, with fewer pixels and epochs."""
    folder = tmp_path_factory.mktemp("library")
    (folder / "data").symlink_to(ROOT / "data")
    code = (
        LIBRARY.replace("256", "32")
        .replace("512", "64")
        .replace(" 50,", " 20,")
        .replace("16384", "256")
    )
    code += "import numpy as np\n"
    code += "np.savez('results', larger, rows, columns, laplacian, again.flat.numpy())\n"
    code += "assert (again.flat.numpy() == network.flat.numpy()).all()\n"
    python(code, folder, env={**os.environ, "PYTHONPATH": str(ROOT)})
    return folder


def test_the_cells_run_in_a_notebook():
    nbclient = pytest.importorskip("nbclient", reason="Jupyter is not required")
    pytest.importorskip("ipykernel", reason="Jupyter is not required")
    nbformat = pytest.importorskip("nbformat", reason="Jupyter is not required")
    code = LIBRARY[: LIBRARY.index("# %% save")]
    code = code.replace("256", "32").replace("512", "64").replace(" 50,", " 3,")
    code = code.replace("data/", f"{ROOT}/data/")
    cells = [nbformat.v4.new_code_cell(cell) for cell in re.split("# %%.*\n", code)[1:]]
    setup = nbformat.v4.new_code_cell(f"import sys; sys.path.insert(0, {str(ROOT)!r})")
    notebook = nbformat.v4.new_notebook(cells=[setup, *cells])
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    fit, *drawn = (cell.outputs for cell in notebook.cells[1:])
    assert not any("Warning" in str(output) for output in fit)
    assert any("3/3" in str(output) or "widget-view" in str(output) for output in fit)
    assert [["image/png" in output.data for output in outputs] for outputs in drawn] == [[True]] * 2


def test_the_library(folder):
    with np.load(folder / "results.npz") as results:
        larger, rows, columns, laplacian, flat = results.values()
    assert larger.shape == (64, 64, 1)
    assert rows.shape == columns.shape == laplacian.shape == (32, 32, 1)
    saved = siren.read_network(folder / "network.npz")
    assert saved.shape == (32, 32)
    assert flat.size == sum(p.size for pair in saved.layers for p in pair)
    np.testing.assert_allclose(larger.reshape(-1, 1), drawn(saved, 64), atol=1e-4)


def test_numpy_draws_the_same_network(folder, monkeypatch):
    monkeypatch.chdir(folder)
    names = {}
    exec(IN_NUMPY.replace("256", "64"), names)
    assert names["picture"].shape == (64, 64, 1)
    saved = siren.read_network(folder / "network.npz")
    np.testing.assert_allclose(names["picture"].reshape(-1, 1), drawn(saved, 64), atol=1e-4)


def test_pytorch_draws_the_same_network(folder, monkeypatch):
    pytest.importorskip("torch", reason="PyTorch is not required")
    monkeypatch.chdir(folder)
    in_numpy, in_pytorch = {}, {}
    exec(IN_NUMPY.replace("256", "64"), in_numpy)
    exec(IN_PYTORCH.replace("256", "64"), in_pytorch)
    np.testing.assert_allclose(in_pytorch["picture"].numpy(), in_numpy["picture"], atol=1e-4)


def test_all_names_exist():
    assert all(getattr(siren, name) is not None for name in siren.__all__)
    with pytest.raises(AttributeError, match="nothing_such"):
        siren.nothing_such  # noqa: B018
