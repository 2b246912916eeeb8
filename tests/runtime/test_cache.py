"""What is damaged in the folder of compiled code is compiled again; what is whole stays."""

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path

import jittor_utils
import pytest
from jittor_utils import lock

from siren.runtime.jittor_import import STAMP, remove_damaged

LIBRARY = Path(sys.modules["jit_utils_core"].__file__)  # of the core; any other is like it
NAMES = ["jittor_core.so", "jit/an_op.so", "cu12/jittor_core.so", "obj_files/a.cc.o", "data.o"]


def record_of(compiled):
    name = "data.md5" if compiled.name == "data.o" else f"{compiled.name}.key"
    return compiled.with_name(name)


@pytest.fixture(scope="module")
def object_file(tmp_path_factory):
    source = tmp_path_factory.mktemp("source") / "a.cc"
    source.write_text("int a() { return 1; }\n")
    subprocess.run(["g++", "-c", source, "-o", source.with_suffix(".o")], check=True)
    return source.with_suffix(".o")


@pytest.fixture
def cache(monkeypatch, tmp_path, object_file):
    """A folder with a stamp and a file of each kind, and a record of each."""
    monkeypatch.setattr(lock, "lock_path", str(tmp_path / "lock"))
    for name in NAMES:
        compiled = tmp_path / name
        compiled.parent.mkdir(exist_ok=True)
        shutil.copy(LIBRARY if name.endswith(".so") else object_file, compiled)
        record = (
            '"g++" a.cc -o a.so\n# a.cc: 12345\n' if name != "data.o" else "0123456789abcdef" * 2
        )
        record_of(compiled).write_text(record)
    (tmp_path / f"{STAMP}abc").touch()
    return tmp_path


def content(cache):
    return {path.relative_to(cache): path.read_bytes() for path in cache.rglob("*.*")}


def cut(path, part):
    whole = path.read_bytes()
    path.write_bytes(whole[: part if part >= 0 else len(whole) + part])


def test_what_is_whole_stays(cache):
    before = content(cache)
    remove_damaged(str(cache))
    assert content(cache) == before
    assert (cache / f"{STAMP}abc").exists()


@pytest.mark.parametrize(
    "of_record, part",
    [*[(False, part) for part in (0, 10, 64, 300, -1)], (True, 0), (True, 5), (True, -1)],
)
@pytest.mark.parametrize("name", NAMES)
def test_what_ends_too_early_goes_with_its_record(cache, name, of_record, part):
    compiled = cache / name
    before = content(cache)
    cut(record_of(compiled) if of_record else compiled, part)
    remove_damaged(str(cache))
    for path in (compiled, record_of(compiled)):
        assert not path.exists()
        del before[path.relative_to(cache)]
    assert content(cache) == before
    # Without it, a child process compiles the core and says so; an operator needs none.
    assert (cache / f"{STAMP}abc").exists() == name.startswith("jit/")


def test_text_in_place_of_a_library_goes(cache):
    (cache / "jit" / "an_op.so").write_bytes(bytes(100_000))  # as some file systems leave it
    remove_damaged(str(cache))
    assert not (cache / "jit" / "an_op.so").exists()


def test_what_has_no_record_is_left_to_jittor(cache):
    record_of(cache / "jit" / "an_op.so").unlink()
    cut(cache / "jit" / "an_op.so", 10)
    remove_damaged(str(cache))
    assert (cache / "jit" / "an_op.so").exists()


def test_nothing_is_removed_while_another_process_compiles(cache):
    cut(cache / "jit" / "an_op.so", 10)
    with open(lock.lock_path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        remove_damaged(str(cache))
        assert (cache / "jit" / "an_op.so").exists()
    remove_damaged(str(cache))
    assert not (cache / "jit" / "an_op.so").exists()


def test_everything_that_is_compiled_here_counts_as_whole():
    cache = Path(jittor_utils.cache_path)
    before = {path for pattern in ("*.so", "*.o", "*.key") for path in cache.rglob(pattern)}
    remove_damaged(str(cache))
    assert before and all(path.exists() for path in before)
