"""How Jittor's core is compiled here, and what Jittor remembers of it."""

import contextlib
import ctypes
import os
import subprocess
import sys
import sysconfig
import textwrap
import time
import types
from pathlib import Path

import jittor_utils
import pytest

from siren.runtime import core, jit

ROOT = Path(__file__).resolve().parents[2]
COMMAND = '"g++" "{0}/a.cc"  -fPIC -O2   -c -o "{0}/a.cc.o"'


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_recorded_is_the_command_of_jittor(monkeypatch, tmp_path, fails):
    """A file that fails with our options, such as a header, is compiled without."""
    command = COMMAND.format(tmp_path)
    header = tmp_path / core.FOLDER / "-O1" / "core.h"
    header.parent.mkdir(parents=True)
    header.with_name("core.h.gch").touch()
    record = tmp_path / "a.cc.o.key"
    commands = []

    def cache_compile(job):
        commands.append(job[0])
        if fails and "--include" in job[0]:
            raise RuntimeError("error: header")
        record.write_text(f"{job[0]}\n# a.cc: hash\n")
        return True

    monkeypatch.setattr(core, "_cache_compile", cache_compile, raising=False)
    assert core.compile_file([command, tmp_path, "jittor"])
    assert commands[0] == f'{command} -O1 --include="{header}"'
    assert commands[1:] == [command] * fails
    assert record.read_text() == f"{command}\n# a.cc: hash\n"


def test_jittor_itself_does_not_compile_the_file_again(tmp_path):
    (tmp_path / "b.h").write_text("int answer();\n")
    (tmp_path / "a.cc").write_text('#include "b.h"\nint answer() { return 42; }\n')
    (tmp_path / "obj_files").mkdir()
    code = f"""
        import siren
        import jittor_utils
        from siren.runtime import core
        jittor_utils.try_import_jit_utils_core()
        core._cache_compile = jittor_utils.do_compile
        command = {COMMAND.format(tmp_path).replace("-O2", f'-O2 -I"{tmp_path}"')!r}
        job = [command, {str(tmp_path)!r}, {str(tmp_path)!r}]
        print(core.compile_file(job), core.compile_file(job), jittor_utils.do_compile(job))
        open({str(tmp_path / "b.h")!r}, "a").write("// changed")
        print(core.compile_file(job))
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, cwd=ROOT
    )
    assert result.stdout.split() == ["True", "False", "False", "True"]


@pytest.fixture
def accelerate(monkeypatch):
    """What there is of ``jittor_utils`` here, in the context of ``core.accelerated``."""
    with contextlib.ExitStack() as stack:

        def enter(compiler, run_cmd=None, run_cmds=None, load=None, memory=2**60):
            monkeypatch.setattr(core.memory, "available", lambda: memory)
            utilities = types.SimpleNamespace(
                cc_type=compiler,
                run_cmd=run_cmd,
                run_cmds=run_cmds,
                do_compile=None,
                try_import_jit_utils_core=load,
                get_total_mem=lambda: 2**60,
            )
            stack.enter_context(core.accelerated(utilities))
            return utilities

        yield enter


def wait_for(*paths):
    """Until all are there; an error after a while."""
    deadline = time.monotonic() + 30
    while not all(path.exists() for path in paths):
        assert time.monotonic() < deadline, paths
        time.sleep(0.01)


def run(command):
    subprocess.run(command, shell=True, check=True)
    return "printed"


def test_there_are_as_many_compilers_as_processors(accelerate):
    """However much memory there is: Jittor starts one for every 3 GiB."""
    utilities = accelerate("clang")
    assert utilities.get_total_mem() == len(os.sched_getaffinity(0)) * 3 * 2**30
    assert utilities.do_compile is None  # only g++ gets other options
    assert utilities.DelayProgress is core.Counter


def test_a_file_that_is_needed_late_is_compiled_meanwhile(accelerate, tmp_path):
    """Jittor removes its source at once, and then compiles all others."""
    source, go_on, log = (tmp_path / name for name in ("data.cc", "go on", "log"))

    def run_later(command):
        wait_for(go_on)
        log.write_text(command)
        run(command)

    source.write_text("int a() { return 1; }\n")
    (tmp_path / "data.o").write_text("an older one")
    utilities = accelerate("g++", run_later, lambda *_: go_on.touch())
    utilities.run_cmd(f'"g++" -fPIC "{source}" -c -o "{tmp_path}/data.o"')
    source.unlink()
    assert not (tmp_path / "data.o").exists()
    utilities.run_cmds([], str(tmp_path), "jittor")
    assert (tmp_path / "data.o").read_bytes()[:4] == b"\x7fELF"
    assert log.read_text() == f'"g++" -fPIC -x c++ - -c -o "{tmp_path}/data.o" -O1'
    source.write_text("no code")
    utilities.run_cmd(f'"g++" "{source}" -c -o "{tmp_path}/data.o" 2> /dev/null')
    with pytest.raises(subprocess.CalledProcessError):
        utilities.run_cmds([], str(tmp_path), "jittor")


def test_what_fails_beside_others_is_tried_again_alone(accelerate, tmp_path):
    source, killed = tmp_path / "data.cc", tmp_path / "killed"

    def run_or_die(command):
        if not killed.exists():
            killed.touch()
            os._exit(1)  # as a compiler for which there is no memory
        run(command)

    source.write_text("int a() { return 1; }\n")
    utilities = accelerate("g++", run_or_die, lambda *_: None)
    utilities.run_cmd(f'"g++" "{source}" -c -o "{tmp_path}/data.o"')
    source.unlink()
    wait_for(killed)
    stdin = os.dup(0)
    try:
        utilities.run_cmds([], str(tmp_path), "jittor")
    finally:
        os.dup2(stdin, 0)
    assert (tmp_path / "data.o").read_bytes()[:4] == b"\x7fELF"


def test_processes_end_with_their_parent(tmp_path):
    code = f"""
        import os, time
        from siren.runtime.core import Meanwhile
        meanwhile = Meanwhile(True)
        meanwhile.start(time.sleep, 100)
        open({str(tmp_path / "pid")!r}, "w").write(str(meanwhile.jobs[0][0].pid))
        time.sleep(1)
        os._exit(0)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, check=True)
    process = Path("/proc", (tmp_path / "pid").read_text())
    deadline = time.monotonic() + 30
    while process.exists() and "State:\tZ" not in (process / "status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def library(tmp_path):
    """The command with which Jittor compiles its first library, of two files."""
    (tmp_path / "obj_files").mkdir()
    for name in "ab":
        (tmp_path / f"{name}.cc").write_text(f'extern "C" int {name}() {{ return 1; }}\n')
    sources = f'"{tmp_path}/a.cc" "{tmp_path}/b.cc"'
    return f'"g++" {sources}  -fPIC -shared -O2  -o "{tmp_path}/jit_utils_core.so"'


def test_the_first_library_is_compiled_at_once_and_recorded_without_compiling(
    accelerate, tmp_path, library
):
    def run_with_the_other(command):
        if "-c" in command.split():
            assert command.endswith('.o"') and " -O2  -O1 -c" in command
            for name in "ab":
                if f"{name}.cc" in command:
                    (tmp_path / name).touch()
            wait_for(tmp_path / "a", tmp_path / "b")
        return run(command)

    check = jittor_utils.cc.cache_compile
    loaded = types.SimpleNamespace(cache_compile=check)

    def load():
        utilities.cc = loaded

    utilities = accelerate("g++", run_with_the_other, lambda *_: None, load)
    utilities.run_cmd(library)
    path = tmp_path / "jit_utils_core.so"
    assert ctypes.CDLL(str(path)).b() == 1
    before = path.stat()
    utilities.try_import_jit_utils_core()
    assert loaded.cache_compile(library, str(tmp_path), str(tmp_path))
    assert path.stat() == before
    assert not check(library, str(tmp_path), str(tmp_path))  # Jittor finds it recorded
    assert loaded.cache_compile is check and utilities.try_import_jit_utils_core is load
    assert utilities.run_cmd("true") == "printed"


def test_with_little_memory_one_compiler_runs_after_the_other(
    accelerate, monkeypatch, tmp_path, library
):
    running = tmp_path / "running"

    def run_alone(command):
        running.touch(exist_ok=False)
        run(command)
        running.unlink()

    given = []
    utilities = accelerate(
        "g++", run_alone, lambda commands, *_: given.extend(commands), lambda: None, memory=2**31
    )
    utilities.run_cmd(library)
    (tmp_path / "data.cc").write_text("int a() { return 1; }\n")
    utilities.run_cmd(f'"g++" "{tmp_path}/data.cc" -c -o "{tmp_path}/data.o"')
    commands = [f'"g++" "{tmp_path}/{i}.cc" -c -o "{tmp_path}/{i}.o"' for i in range(30)]
    monkeypatch.setattr(core, "precompile", lambda *_: None)
    utilities.run_cmds(commands, str(tmp_path), "jittor", "")
    assert given == commands
    assert (tmp_path / "data.o").exists() and (tmp_path / "jit_utils_core.so").exists()


@pytest.mark.parametrize(("file", "options"), [("data.cc", " -O1"), ("other.cc", "")])
def test_what_jittor_compiles_one_by_one_gets_options_too(accelerate, file, options):
    commands = []
    accelerate("g++", commands.append, memory=2**31).run_cmd(f'"g++" "/cache/{file}"')
    assert commands == [f'"g++" "/cache/{file}"{options}']


def test_for_many_files_that_are_missing_there_is_a_header_and_the_longest_begins(
    accelerate, monkeypatch, tmp_path
):
    precompiled, given, first = [], [], tmp_path / "first"

    def precompile(commands, folder):
        wait_for(first)
        folder.mkdir()
        precompiled.append(folder)

    monkeypatch.setattr(core, "precompile", precompile)
    monkeypatch.setattr(jit, "precompile", lambda path, *_: (tmp_path / path.name).touch())
    monkeypatch.setattr(core, "_compile", lambda job, options: first.write_text(job[0] + options))
    commands = [f'"g++" "{tmp_path}/{i}.cc" -c -o "{tmp_path}/{i}.o"' for i in range(30)]
    (tmp_path / "7.cc").write_text("the longest")
    utilities = accelerate("g++", run_cmds=lambda commands, *_: given.append(commands))
    utilities.run_cmds(commands, str(tmp_path), "jittor", "Compiling")
    assert first.read_text() == f"{commands[7]} -O1"
    assert (tmp_path / jit.HEADER.name).exists()
    assert sorted([commands[7], *given[0]]) == sorted(commands)
    for i in range(10):
        (tmp_path / f"{i}.o").touch()
    utilities.run_cmds(commands, str(tmp_path), "jittor", "Compiling")
    assert sorted(given[1]) == sorted(commands) and given[1][0] == commands[7]
    assert precompiled == [tmp_path / core.FOLDER]


@pytest.mark.parametrize("free", [0, 2**60])
def test_the_header_of_operators_may_fail_and_needs_a_disk(accelerate, monkeypatch, tmp_path, free):
    def precompile(*_):
        (tmp_path / "tried").touch()
        raise OSError

    monkeypatch.setattr(core, "precompile", lambda *_: None)
    monkeypatch.setattr(core, "_compile", lambda *_: True)
    monkeypatch.setattr(jit, "precompile", precompile)
    usage = types.SimpleNamespace(free=free)
    monkeypatch.setattr(core.shutil, "disk_usage", lambda _: usage)
    commands = [f'"g++" "{tmp_path}/{i}.cc" -c -o "{tmp_path}/{i}.o"' for i in range(30)]
    accelerate("g++", run_cmds=lambda *_: None).run_cmds(commands, str(tmp_path), "jittor", "")
    assert (tmp_path / "tried").exists() == bool(free)


@pytest.mark.parametrize("fails", [False, True])
def test_the_headers_are_gone_afterwards(monkeypatch, tmp_path, fails):
    monkeypatch.setattr(core, "precompile", lambda _, folder: folder.mkdir())
    monkeypatch.setattr(jit, "precompile", lambda *_: None)
    monkeypatch.setattr(core, "_compile", lambda *_: True)
    utilities = types.SimpleNamespace(cc_type="g++", run_cmd=None, do_compile=None)
    utilities.run_cmds, utilities.get_total_mem = lambda *_: None, lambda: 2**60
    commands = [f'"g++" "{tmp_path}/{i}.cc" -c -o "{tmp_path}/{i}.o"' for i in range(30)]
    with contextlib.suppress(ImportError), core.accelerated(utilities):
        utilities.run_cmds(commands, str(tmp_path), "jittor", "Compiling")
        assert (tmp_path / core.FOLDER).exists()
        if fails:
            raise ImportError
    assert not (tmp_path / core.FOLDER).exists()


def test_the_header_is_compiled_for_all_files(tmp_path):
    """With the options of the commands; a header that does not suit them is left out."""
    includes = sysconfig.get_path("include")
    for name in ("executor", "fused_op", "op", "var", "pyjt/py_converter", "pyjt/py_obj_holder"):
        path = tmp_path / "good" / f"{name}.h"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    good = COMMAND.format(tmp_path).replace("-O2", f'-I"{includes}" -I"{tmp_path}/good" -O2')
    core.precompile([good], tmp_path / "folder")
    assert {path.parent.name for path in (tmp_path / "folder").glob("*/*.gch")} == {"-O0", "-O1"}
    source = tmp_path / "a.cc"
    source.write_text("std::unordered_map<int, int> map;\n")  # declared by the header
    options = core._options(str(source), tmp_path / "folder")
    subprocess.run(f"{good} {options} -Winvalid-pch -Werror", shell=True, check=True)
    core.precompile([COMMAND.format(tmp_path)], tmp_path / "other")
    assert core._options(str(source), tmp_path / "other") == " -O1"
