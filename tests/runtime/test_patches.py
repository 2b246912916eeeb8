"""Corrected files of Jittor, and arrays that go through them."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import jittor as jt
import jittor_utils
import numpy as np
import pytest

from siren.runtime import machine, patches
from siren.runtime.install import JITTOR
from siren.runtime.messages import Problem

JITTORS = Path(importlib.util.find_spec("jittor").submodule_search_locations[0])


def fake_jittor(monkeypatch, folder, change=lambda name, text: text):
    """An installed Jittor of which there are only the headers, after ``change``."""
    for place, name, _ in patches._FILES:
        text = change(name, (JITTORS / place / name).read_text())
        if text is not None:
            target = folder / place / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
    monkeypatch.setattr(patches, "jittor_folder", lambda: folder)


def names(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*.h")}


def test_all_headers_of_this_jittor_are_corrected():
    folder = patches.write_headers()
    assert names(folder) == {"pyjt/numpy.h", "types.h", "misc/stack_vector.h", "helper_cuda.h"}
    assert f'-I"{folder}"' in jt.flags.cc_flags  # and before Jittor's own folders
    assert jt.flags.cc_flags.index(str(folder)) < jt.flags.cc_flags.index(str(JITTORS / "src"))


def test_a_header_that_is_not_as_expected_is_left_alone(monkeypatch, tmp_path):
    changes = {
        "pyjt/numpy.h": lambda text: text.replace("arr->descr->elsize", "size_of(arr)"),
        "types.h": lambda text: text + "#include <vector>\n",
        "misc/stack_vector.h": lambda text: None,  # there is no such file
    }
    keep = lambda text: text  # noqa: E731
    fake_jittor(monkeypatch, tmp_path, lambda name, text: changes.get(name, keep)(text))
    assert names(patches.write_headers()) == {"helper_cuda.h"}


def test_the_folder_is_another_for_other_headers(monkeypatch, tmp_path):
    before = patches.write_headers()
    fake_jittor(monkeypatch, tmp_path, lambda _, text: text + "// of a later version\n")
    after = patches.write_headers()
    assert after != before and names(after) == names(before)


def test_the_corrected_header_asks_the_right_device_for_what_cuda_13_has_removed():
    header = (JITTORS / patches.CUDA_FOLDER / "helper_cuda.h").read_text()
    corrected = patches.corrected_helper_header(header)
    assert corrected.count("SirenDeviceProp deviceProp;") == 5
    assert "cudaDeviceProp deviceProp;" not in corrected
    asked = re.findall(r"(\w+)\(&deviceProp, (\w+)\)", corrected)
    before = re.findall(r"cudaGetDeviceProperties\(&deviceProp, (\w+)\)", header)
    assert asked == [("sirenDeviceProperties", device) for device in before] and len(asked) == 6
    assert corrected.index("struct SirenDeviceProp") < corrected.index("SirenDeviceProp deviceProp")
    assert patches.corrected_helper_header(corrected) == corrected


def numpys_table():
    """The functions of NumPy's own C header by name, as places in its table."""
    (header,) = Path(np.get_include()).glob("numpy/__multiarray_api.h")
    text = header.read_text().replace("\\\n", "")
    return {
        name: int(place)
        for name, place in re.findall(r"#define (PyArray_\w+)\s[^#]*?PyArray_API\[(\d+)\]", text)
    }


def test_places_in_numpys_table_are_those_of_its_header():
    table = numpys_table()
    text = (patches.write_headers() / "pyjt/numpy.h").read_text()
    numpy_1, numpy_2 = map(int, re.search(r"is_numpy_1\(\) \? (\d+) : (\d+)", text).groups())
    is_1 = np.__version__.startswith("1.")
    assert table["PyArray_CopyInto"] == (numpy_1 if is_1 else numpy_2)
    assert table["PyArray_DescrFromType"] == 45 and "PyArray_API[45]" in text
    assert table["PyArray_GetNDArrayCVersion"] == 0
    source = (JITTORS / "src" / "pyjt" / "numpy.cc").read_text()
    others = dict(re.findall(r"fill\((PyArray_(?!CopyInto|Type|New\b)\w+), (\d+)\)", source))
    others = {name: int(place) for name, place in others.items() if name in table}
    assert len(others) >= 4
    assert {name: table[name] for name in others} == others


def test_progress_is_written_only_where_it_is_read_or_the_log_is_on(monkeypatch):
    copy = patches.write_headers() / "parallel_compiler.cc"
    assert "if (shown && diff > 2e9) {" in copy.read_text()
    original = f'"g++" "{JITTORS}/src/parallel_compiler.cc" -O2 -c -o "a.o"'
    assert patches.with_corrected_source(original) == f'"g++" "{copy}" -O2 -c -o "a.o"'
    other = f'"g++" "{JITTORS}/src/executor.cc" -O2 -c -o "a.o"'
    assert patches.with_corrected_source(other) == other
    monkeypatch.setattr(patches, "_FILES", [])  # of a later Jittor, which needs no correction
    assert patches.with_corrected_source(original) == original


def test_jittors_core_has_the_corrected_source():
    core = Path(sys.modules["jittor_core"].__file__).read_bytes()
    assert b"siren_progress" in core


# ---- arrays -----------------------------------------------------------------------------------


def test_arrays_reach_jittor_and_come_back():
    assert machine.find_array_problem() == ""


@pytest.mark.parametrize("dtype", machine.DTYPES)
def test_arrays_of_any_shape_are_numpys(dtype):
    random = np.random.default_rng(0)
    for shape in [(), (1,), (7,), (3, 5), (2, 3, 4), (0, 3), (1 << 18,)]:
        array = random.integers(0, 2, shape).astype(dtype)
        for each in (array, array.T, array[..., ::-1] if shape else array):
            np.testing.assert_array_equal(jt.array(each).numpy(), each.reshape(each.shape or 1))


def broken(change):
    """``jt.array``, after which arrays come back with ``change``."""
    make = jt.array

    class Var:
        def __init__(self, array):
            self.array = make(array).numpy()

        def numpy(self):
            return change(self.array)

        data = property(numpy)

    return Var


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda array: array if array.ndim < 3 else array[:0], "of shape"),
        (lambda array: array + (array.dtype == "uint16"), "uint16"),
        (lambda array: array * 0 if array.size > 1000 else array, "262144"),
    ],
)
def test_what_does_not_come_back_is_refused_with_the_way_out(monkeypatch, change, words):
    monkeypatch.setattr(np, "__version__", "9.9")
    monkeypatch.setattr(jt, "array", broken(change))
    for _ in range(2):  # it is not remembered as a success
        with pytest.raises(Problem, match=words) as caught:
            machine.check_arrays()
        assert "NumPy 9.9" in str(caught.value) and JITTOR in str(caught.value)


def test_arrays_are_tried_once_for_a_numpy(monkeypatch):
    machine.check_arrays()
    monkeypatch.setattr(machine, "find_array_problem", lambda: "tried again")
    machine.check_arrays()
    monkeypatch.setattr(np, "__version__", "9.9")
    with pytest.raises(Problem, match="tried again"):
        machine.check_arrays()


# ---- Jittor's Python --------------------------------------------------------------------------


def test_jittors_workers_are_forks_whatever_the_program_has_chosen():
    code = """
import multiprocessing
multiprocessing.set_start_method("spawn")
import siren, jittor_utils
with jittor_utils.Pool(1) as pool:
    print(pool._ctx.get_start_method(), multiprocessing.get_start_method())
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.split() == ["fork", "spawn"], done.stderr


def test_modules_that_jittor_executes_an_import_of_are_found():
    assert jt.compiler.locals()["json"] is json
    assert jittor_utils.locals() is sys.modules
