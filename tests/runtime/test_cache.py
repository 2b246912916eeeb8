"""What is damaged in the folder of compiled code is compiled again; what is whole stays."""

import fcntl
import os
import shutil
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import jittor_utils
import pytest
from jittor_utils import lock

from siren.runtime import jittor_import, patches
from siren.runtime.jittor_import import STAMP, remove_damaged

ROOT = Path(__file__).resolve().parents[2]
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


def test_remains_of_a_killed_compilation_go_before_the_next(cache):
    """The record of data.o comes first, and the compilation may be killed in between."""
    before = content(cache)
    (cache / "data.o").unlink()
    # Headers of a compilation that was killed: of other sources by now, or half of one.
    for folder in ("siren-core/-O1", "cu12/siren-core/-O0", "siren-jit", "siren-jit/tmpabc"):
        (cache / folder).mkdir(parents=True, exist_ok=True)
        (cache / folder / "jit.h.gch").touch()
    before[Path("siren-jit/jit.sh")] = b"in use"
    (cache / "siren-jit" / "jit.sh").write_bytes(b"in use")
    jittor_import._prepare_compilation(str(cache))
    for name in ("data.o", "data.md5"):
        del before[Path(name)]
    assert content(cache) == before


def test_nothing_is_removed_while_another_process_compiles(cache):
    cut(cache / "jit" / "an_op.so", 10)
    with open(lock.lock_path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        remove_damaged(str(cache))
        assert (cache / "jit" / "an_op.so").exists()
    remove_damaged(str(cache))
    assert not (cache / "jit" / "an_op.so").exists()


# ---- the stamp ----------------------------------------------------------------------------------


def test_a_stamp_is_of_jittors_sources_and_of_variables(monkeypatch, tmp_path):
    def named():
        return jittor_import._stamp(str(tmp_path)).name

    source = tmp_path / "src" / "ops" / "a.h"
    source.parent.mkdir(parents=True)
    source.write_text("int a;")
    monkeypatch.setattr(jittor_import, "jittor_folder", lambda: tmp_path)
    names = [named()]
    assert named() == names[0]
    source.write_text("int a, b;")
    names.append(named())
    os.utime(source, (1, 1))
    names.append(named())
    (tmp_path / "compiler.py").touch()
    names.append(named())
    for variable in ("JT_SAVE_MEM", "enable_lto"):
        monkeypatch.setenv(variable, "1")
        names.append(named())
    assert len(set(names)) == len(names)


def test_where_the_core_is_compiled_nothing_is_generated_or_compared():
    """In another process: Jittor writes its bindings whenever it generates them.

    A stamp that is missing is written anew.
    """
    code = """
        import siren
        siren.start("cpu")
        import jittor
        print(jittor.flags.cache_path, jittor.jittor_utils.cc.cache_compile)
    """
    run = [sys.executable, "-c", textwrap.dedent(code)]
    folder, check = subprocess.check_output(run, text=True, cwd=ROOT).strip().split(" ", 1)
    assert check.startswith("<built-in")  # for what is compiled later
    generated = Path(folder, "gen", "pyjt_all.cc")
    before = generated.stat().st_mtime_ns
    subprocess.run(run, check=True, cwd=ROOT)
    assert generated.stat().st_mtime_ns == before
    stamps = list(Path(jittor_utils.cache_path).glob(f"{STAMP}*"))
    for path in stamps:
        path.unlink()
    subprocess.run(run, check=True, cwd=ROOT)
    assert any(path.exists() for path in stamps)


def test_what_is_missing_is_compiled_even_so(tmp_path):
    commands = []
    library = types.SimpleNamespace(cache_compile=lambda *job: not commands.append(job))
    check = library.cache_compile
    (tmp_path / "there.o").touch()
    jobs = [(f'"g++" "a.cc" -c -o "{tmp_path}/{name}.o" -la', "cache") for name in ("there", "not")]
    with patches.without_checks(types.SimpleNamespace(cc=library)):
        assert [library.cache_compile(*job) for job in jobs] == [False, True]
    assert commands == jobs[1:] and library.cache_compile is check

    def generate(*_):
        return ["gen/a.cc"]

    assert patches._bindings_if_missing(generate, str(tmp_path), "") == ["gen/a.cc"]
    (tmp_path / "jittor_core.so").touch()
    assert patches._bindings_if_missing(generate, str(tmp_path), "") == []


def test_everything_that_is_compiled_here_counts_as_whole():
    cache = Path(jittor_utils.cache_path)
    before = {path for pattern in ("*.so", "*.o", "*.key") for path in cache.rglob(pattern)}
    remove_damaged(str(cache))
    assert before and all(path.exists() for path in before)
