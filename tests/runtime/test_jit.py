"""How Jittor's core and operators are compiled here, and what Jittor remembers of it."""

import ctypes
import os
import shlex
import subprocess
import sys
import sysconfig
import textwrap
import types
from pathlib import Path

import jittor
import numpy as np
import pytest

from siren import runtime
from siren.runtime import jit

ROOT = Path(__file__).resolve().parents[2]
TOOL = """#!/bin/sh
printf "%s|" {name} "$@" >> "{folder}/called"
echo >> "{folder}/called"
for word; do
  [ "$before" = -o ] && output="$word"
  before="$word"
done
echo {name} > "$output"
"""


@pytest.fixture
def tools(tmp_path):
    """A compiler, a Python and a header that leave behind how they were called, and an output."""
    for name in ("compiler", "python"):
        (tmp_path / name).write_text(TOOL.format(name=name, folder=tmp_path))
        (tmp_path / name).chmod(0o755)
    (tmp_path / "jit.h.gch").write_text("")
    (tmp_path / "a_op.cc").write_text("int a;")
    return tmp_path


def called(tools, tool="asm_tuner.py"):
    """What jit.sh has called, a list for each call."""
    command = ["sh", jit.SCRIPT, f"--python={tools}/python", f"--header={tools}/jit.h"]
    command += [
        "--flags=-mthis -mthat",
        f"/jittor/utils/{tool}",
        f"--cc_path={tools}/compiler",
        f"{tools}/a_op.cc",
    ]
    options = ["-O2", "-Ofast", "-Ia b", "-o", "a_op.so"]
    subprocess.run([*command, *options], check=True, cwd=tools)
    return [line.split("|")[:-1] for line in (tools / "called").read_text().splitlines()]


@pytest.mark.parametrize("header", [True, False])
def test_an_operator_is_compiled_with_the_header_and_linked_without_ofast(tools, header):
    if not header:
        (tools / "jit.h.gch").unlink()
    compiled, linked = called(tools)
    included = ["-include", f"{tools}/jit.h"] if header else []
    assert compiled[:-3] == [
        *("compiler", "-mthis", "-mthat", "-DJIT=1", "-DJIT_cpu=1", *included, f"{tools}/a_op.cc"),
        *("-O2", "-Ofast", "-Ia b", "-o", "a_op.so"),
    ]
    assert compiled[-3:-1] == ["-c", "-o"]  # the last one holds
    assert linked == ["compiler", compiled[-1], "-O2", "-Ia b", "-o", linked[-1]]
    assert linked[-1].endswith(".part")
    assert (tools / "a_op.so").read_text() == "compiler\n"
    assert not list(tools.glob("*.o")) and not list(tools.glob("*.part"))


@pytest.mark.parametrize("step", ["-c *", "*.part*"])
def test_a_failure_leaves_no_half_of_a_library(tools, step):
    """As when the disk is full, or when the compiler is killed, in either step."""
    path = tools / "compiler"
    path.write_text(path.read_text() + f'case " $* " in *" "{step}) exit 1 ;; esac\n')
    calls = called(tools)
    assert [call[0] for call in calls] == ["compiler"] * len(calls[:-1]) + ["python"]
    assert (tools / "a_op.so").read_text() == "python\n"  # Jittor's own tool has made it
    assert not list(tools.glob("*.o")) and not list(tools.glob("*.part"))


@pytest.mark.parametrize("reason", ["a compiler that fails", "another tool"])
def test_what_needs_jittors_own_tool_gets_it(tools, reason):
    tool = "asm_tuner.py"
    if reason == "a compiler that fails":
        (tools / "compiler").write_text("#!/bin/sh\nexit 1\n")
    else:
        tool = "dlink_compiler.py"
    assert called(tools, tool) == [
        [
            *("python", f"/jittor/utils/{tool}", f"--cc_path={tools}/compiler"),
            *(f"{tools}/a_op.cc", "-O2", "-Ofast", "-Ia b", "-o", "a_op.so"),
        ]
    ]


def test_the_header_is_precompiled_and_fits_jittors_flags(tmp_path):
    """-H marks a precompiled header with an exclamation mark, one that does not fit with an x."""
    runtime.start("cpu")
    words = shlex.split(jittor.flags.python_path)
    header, flags = words[-2].removeprefix("--header="), words[-1].removeprefix("--flags=")
    assert words[0] == "sh" and Path(header + ".gch").exists()
    source = tmp_path / "a.cc"
    source.write_text('#define JIT 1\n#define JIT_cpu 1\n#include "var.h"\n#include "op.h"\n')
    command = [jittor.flags.cc_path, "-DJIT=1", "-DJIT_cpu=1", "-include", header, str(source)]
    command += [
        *shlex.split(jittor.flags.cc_flags),
        "-fopenmp",
        "-Ofast",
        "-H",
        "-fsyntax-only",
        *flags.split(),
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert f"! {header}.gch" in result.stderr


def test_a_header_that_does_not_compile_leaves_nothing(tmp_path):
    header = tmp_path / "jit.h"
    jit.precompile(header, jittor.flags.cc_path, "-I/nowhere")
    assert list(header.parent.iterdir()) == []


def test_the_root_of_a_subnormal_number_is_a_number():
    tiny = jittor.array(np.full(100, 1e-41, np.float32))
    roots = jittor.sqrt(tiny).numpy()
    assert ((roots >= 0) & (roots <= 4e-21)).all()  # 0 where subnormal numbers are taken for it
    quotients = (tiny / jittor.array(np.full(100, 2e-41, np.float32) + 1)).numpy()
    assert ((quotients >= 0) & (quotients <= 2e-41)).all()


# ---- the core -------------------------------------------------------------------------------

COMMAND = '"g++" "{0}/a.cc"  -fPIC -O2   -c -o "{0}/a.cc.o"'


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_recorded_is_the_command_of_jittor(monkeypatch, tmp_path, fails):
    """A file that fails with our options, such as a header, is compiled without."""
    command = COMMAND.format(tmp_path)
    header = tmp_path / jit.CORE_FOLDER / "-O1" / "core.h"
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

    monkeypatch.setattr(jit, "_cache_compile", cache_compile, raising=False)
    assert jit.compile_file([command, tmp_path, "jittor"])
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
        from siren.runtime import jit
        jittor_utils.try_import_jit_utils_core()
        jit._cache_compile = jittor_utils.do_compile
        command = {COMMAND.format(tmp_path).replace("-O2", f'-O2 -I"{tmp_path}"')!r}
        job = [command, {str(tmp_path)!r}, {str(tmp_path)!r}]
        print(jit.compile_file(job), jit.compile_file(job), jittor_utils.do_compile(job))
        open({str(tmp_path / "b.h")!r}, "a").write("// changed")
        print(jit.compile_file(job))
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, cwd=ROOT
    )
    assert result.stdout.split() == ["True", "False", "False", "True"]


def accelerated(compiler, run_cmd=None, run_cmds=None, load=None):
    """What there is of ``jittor_utils`` here, on a machine with much memory."""
    utilities = types.SimpleNamespace(
        cc_type=compiler,
        run_cmd=run_cmd,
        run_cmds=run_cmds,
        do_compile=None,
        try_import_jit_utils_core=load,
        get_total_mem=lambda: 2**60,
    )
    jit.accelerate_core(utilities)
    return utilities


def test_there_are_as_many_compilers_as_processors():
    """However much memory there is: Jittor starts one for every 3 GiB."""
    utilities = accelerated("clang")
    assert utilities.get_total_mem() == len(os.sched_getaffinity(0)) * 3 * 2**30
    assert utilities.do_compile is None  # only g++ gets other options


def run(command):
    subprocess.run(command, shell=True, check=True)
    return "printed"


def test_a_file_that_is_needed_late_is_compiled_meanwhile(tmp_path):
    """Jittor removes its source at once, and then compiles all others."""
    source, finished = tmp_path / "data.cc", []
    source.write_text("int a() { return 1; }\n")
    utilities = accelerated("g++", run, lambda *_: finished.append(True))
    utilities.run_cmd(f'sleep 1; "g++" "{source}" -c -o "{tmp_path}/data.o"')
    source.unlink()
    assert not (tmp_path / "data.o").exists()
    utilities.run_cmds([], str(tmp_path), "jittor")
    assert finished and [path.name for path in tmp_path.iterdir()] == ["data.o"]
    source.write_text("no code")
    utilities.run_cmd(f'"g++" "{source}" -c -o "{tmp_path}/data.o" 2> /dev/null')
    with pytest.raises(RuntimeError, match="does not compile"):
        utilities.run_cmds([], str(tmp_path), "jittor")


def test_the_first_library_is_compiled_in_parts_and_recorded_meanwhile(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.cc").write_text(f'extern "C" int {name}() {{ return 1; }}\n')
    library = tmp_path / "jit_utils_core.so"
    command = f'"g++" "{tmp_path}/a.cc" "{tmp_path}/b.cc"  -fPIC -shared -O2  -o "{library}"'
    commands, record = [], tmp_path / "record"
    loaded = types.SimpleNamespace(cache_compile=record.write_text)
    utilities = accelerated(
        "g++",
        lambda text: commands.append(text) or run(text),
        lambda *_: None,
        lambda: setattr(utilities, "cc", loaded),
    )
    utilities.run_cmd(command)
    assert len(commands) == 1 and ctypes.CDLL(str(library)).b() == 1  # linked here, the parts not
    utilities.try_import_jit_utils_core()
    assert utilities.cc.cache_compile(command)  # as Jittor does, which has no record else
    utilities.run_cmds([], str(tmp_path), "jittor")
    assert record.read_text() == command
    assert utilities.run_cmd("true") == "printed"


def test_for_many_files_that_are_missing_there_is_a_header_and_the_longest_begins(
    monkeypatch, tmp_path
):
    precompiled, given = [], []
    monkeypatch.setattr(jit, "precompile_for_core", lambda *_: precompiled.append(True))
    monkeypatch.setattr(jit, "compile_file", lambda job: (tmp_path / "first").write_text(job[0]))
    commands = [f'"g++" "{tmp_path}/{i}.cc" -c -o "{tmp_path}/{i}.o"' for i in range(30)]
    (tmp_path / "7.cc").write_text("the longest")
    utilities = accelerated("g++", run_cmds=lambda commands, *_: given.append(commands))
    utilities.run_cmds(commands, str(tmp_path), "jittor", "Compiling")
    assert precompiled == [True]
    assert (tmp_path / "first").read_text() == commands[7]
    assert sorted([commands[7], *given[0]]) == sorted(commands)
    for i in range(10):
        (tmp_path / f"{i}.o").touch()
    utilities.run_cmds(commands, str(tmp_path), "jittor", "Compiling")
    assert precompiled == [True]
    assert sorted(given[1]) == sorted(commands) and given[1][0] == commands[7]


def test_the_header_is_compiled_for_all_files(tmp_path):
    """With the options of the commands; a header that does not suit them is left out."""
    includes = sysconfig.get_path("include")
    for name in ("executor", "fused_op", "op", "var", "pyjt/py_converter", "pyjt/py_obj_holder"):
        path = tmp_path / "good" / f"{name}.h"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    good = COMMAND.format(tmp_path).replace("-O2", f'-I"{includes}" -I"{tmp_path}/good" -O2')
    jit.precompile_for_core([good], tmp_path / "folder")
    assert {path.parent.name for path in (tmp_path / "folder").glob("*/*.gch")} == {"-O0", "-O1"}
    source = tmp_path / "a.cc"
    source.write_text("std::unordered_map<int, int> map;\n")  # declared by the header
    options = jit._options(str(source), tmp_path / "folder")
    subprocess.run(f"{good} {options} -Winvalid-pch -Werror", shell=True, check=True)
    jit.precompile_for_core([COMMAND.format(tmp_path)], tmp_path / "other")
    assert jit._options(str(source), tmp_path / "other") == " -O1"
