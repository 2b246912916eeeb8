"""The compilation of Jittor's core: what Jittor remembers of it, and what the user sees."""

import io
import os
import subprocess
import sys
import sysconfig
import textwrap
import types
from pathlib import Path

import pytest

from siren.runtime import core
from siren.runtime.compilation import Compilation

ROOT = Path(__file__).resolve().parents[2]
COMMAND = '"g++" "{0}/a.cc"  -fPIC -O2   -c -o "{0}/a.cc.o"'


@pytest.fixture
def compiled(monkeypatch):
    """The commands that reach Jittor, which records them as it does."""
    commands = []

    def cache_compile(job):
        commands.append(job[0])
        if "--fail" in job[0]:
            raise RuntimeError("error: header")
        match = core._COMMAND.fullmatch(job[0].strip().replace(" -O0", "").strip())
        record = match["output"].strip('"') + ".key"
        with open(record, "w") as file:
            file.write(f"{job[0]}\n# a.cc: hash\n")
        return True

    monkeypatch.setattr(core, "_cache_compile", cache_compile, raising=False)
    return commands


def test_what_is_recorded_is_the_command_of_jittor(compiled, tmp_path):
    command = COMMAND.format(tmp_path)
    assert core.compile_file([f"{command}\0 -O0", "cache", "jittor"])
    assert compiled == [f"{command} -O0"]
    record = tmp_path / "a.cc.o.key"
    assert record.read_text() == f"{command}\n# a.cc: hash\n"


def test_a_file_that_fails_with_our_options_is_compiled_without(compiled, tmp_path):
    command = COMMAND.format(tmp_path)
    assert core.compile_file([f"{command}\0 -O0 --fail", "cache", "jittor"])
    assert compiled == [f"{command} -O0 --fail", command]
    assert (tmp_path / "a.cc.o.key").read_text().startswith(f"{command}\n")


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
        paths = [{str(tmp_path)!r}, {str(tmp_path)!r}]
        print(core.compile_file([command + chr(0) + " -O0", *paths]))
        print(core.compile_file([command + chr(0) + " -O0", *paths]))
        print(jittor_utils.do_compile([command, *paths]))
        open({str(tmp_path / "b.h")!r}, "a").write("// changed")
        print(core.compile_file([command + chr(0) + " -O0", *paths]))
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, cwd=ROOT
    )
    assert result.stdout.split() == ["True", "False", "False", "True"]


def test_there_are_as_many_compilers_as_processors():
    """However much memory there is: Jittor starts one for every 3 GiB."""
    utilities = types.SimpleNamespace(
        cc_type="clang", run_cmd=None, run_cmds=None, do_compile=None, get_total_mem=lambda: 2**60
    )
    core.accelerate(utilities)
    assert utilities.get_total_mem() == len(os.sched_getaffinity(0)) * 3 * 2**30
    assert utilities.do_compile is None  # only g++ gets other options


@pytest.mark.parametrize(
    ("file", "options"), [("data.cc", "-O1"), ("jit_utils_core.so", "-O0"), ("other.cc", "")]
)
def test_what_jittor_compiles_one_by_one_gets_options_too(file, options):
    commands = []
    utilities = types.SimpleNamespace(
        cc_type="g++",
        run_cmd=commands.append,
        run_cmds=None,
        do_compile=None,
        get_total_mem=lambda: 2**60,
    )
    core.accelerate(utilities)
    utilities.run_cmd(f'"g++" "/cache/{file}"')
    assert commands == [f'"g++" "/cache/{file}" {options}'.rstrip()]


def test_the_header_is_compiled_for_all_files(tmp_path):
    """With the options of the commands; a header that does not suit them is left out."""
    (tmp_path / "good").mkdir()
    includes = sysconfig.get_path("include")
    for name in ("executor", "fused_op", "op", "var", "pyjt/py_converter", "pyjt/py_obj_holder"):
        path = tmp_path / "good" / f"{name}.h"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    good = COMMAND.format(tmp_path).replace("-O2", f'-I"{includes}" -I"{tmp_path}/good" -O2')
    assert core._precompile([good], tmp_path / "folder")
    assert {path.parent.name for path in (tmp_path / "folder").glob("*/*.gch")} == {"-O0", "-O1"}
    command = core._with_options(good, tmp_path / "folder").split("\0")[1]
    (tmp_path / "a.cc").write_text("std::unordered_map<int, int> map;\n")  # declared by the header
    subprocess.run(f"{good}{command} -Winvalid-pch -Werror", shell=True, check=True)
    assert not core._precompile([COMMAND.format(tmp_path)], tmp_path / "other")


# ---- what the user sees -----------------------------------------------------------------------


class Terminal(io.StringIO):
    """A stderr that is a terminal."""

    def isatty(self):
        return True


def test_without_a_terminal_there_are_lines_from_time_to_time(monkeypatch, capsys):
    clock = [100.0]
    monkeypatch.setattr("siren.runtime.compilation.DELAY", 0)
    monkeypatch.setattr("siren.runtime.compilation.time.monotonic", lambda: clock[0])
    with Compilation("Compiling ...", "files") as compilation:
        compilation.announce.join()
        for done in range(1, 31):
            compilation.read(f"Compiling jittor_core({done}/31)\n")
            clock[0] += 1
        compilation.read("Compiling nothing\n")
    announcement, *lines = capsys.readouterr().err.splitlines()
    assert announcement == "Compiling ..."
    assert lines == [
        "11 of 31 files compiled, about 20 s left",
        "21 of 31 files compiled, about 10 s left",
    ]


def test_on_a_terminal_there_is_a_bar(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("siren.runtime.compilation.DELAY", 0)
    monkeypatch.setattr("sys.stderr", terminal)
    with Compilation("Compiling ...", "kernels") as compilation:
        compilation.announce.join()
        compilation.read("Compiling Operators(1/3) used: 2.1s eta: 4s \n")
        compilation.read("Compiling Operators(3/3) used: 6.3s eta: 0s \n")
    assert "kernels" in terminal.getvalue() and "1/3" in terminal.getvalue()


def test_what_is_over_soon_is_not_mentioned(capsys):
    with Compilation("Compiling ...", "kernels") as compilation:
        compilation.read("Compiling Operators(1/3)\n")
    assert capsys.readouterr().err == ""
