"""How Jittor's operators are compiled here."""

import shlex
import subprocess
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
