"""Compiles Jittor's operators in a quarter of the time that Jittor takes.

Most of that time goes into headers, the same ones for every operator. Here they are compiled once.

Operators are compiled when Jittor first meets them. It has a Python script (``asm_tuner.py``)
replace stores of large operators by ones that bypass the cache, which gains nothing measurable, and
is left out. The flags stay as they are, but for FLAGS.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

HEADER = Path(__file__).with_name("jit.h")
SCRIPT = Path(__file__).with_name("jit.sh")  # a copy of it is used: Jittor records its path
# With -Ofast, g++ takes square roots and quotients from approximate reciprocals, and the root of a
# subnormal number is -inf or NaN unless the processor takes such numbers for zero. A library that
# g++ 12 or older has linked sees to that; from g++ 13 on none does.
FLAGS = ["-mno-recip"] if platform.machine() == "x86_64" else []
FOLDER = "siren-jit"  # in Jittor's cache; the precompiled header takes 66 MB


def accelerate_operators(jittor) -> None:
    """Let ``jittor`` compile operators with ``jit.sh``, and precompile their headers.

    Other compilers than g++ have no such headers. Without them Jittor compiles as ever.
    """
    if jittor.compiler.cc_type != "g++" or SCRIPT.name in jittor.flags.python_path:
        return
    header = Path(jittor.flags.cache_path, FOLDER, HEADER.name)
    with contextlib.suppress(OSError):
        precompile(header, jittor.flags.cc_path, jittor.flags.cc_flags)
        script = header.with_name(SCRIPT.name)
        if not script.exists() or script.read_text() != SCRIPT.read_text():
            shutil.copy(SCRIPT, script)
        jittor.flags.python_path = (
            f'sh "{script}" --python="{jittor.flags.python_path}" --header="{header}" '
            f'--flags="{" ".join(FLAGS)}"'
        )


def precompile(header: Path, compiler: str, flags: str) -> None:
    """Write ``header`` and its precompiled form, unless they are there, up to date and whole."""
    compiled, size = header.with_name(header.name + ".gch"), header.with_name(header.name + ".size")
    options = [f for f in shlex.split(flags) if not f.startswith(("-l", "-L", "-Wl,", "-shared"))]
    # What Jittor adds for every operator
    command = [compiler, *options, *FLAGS, "-fopenmp", "-Ofast", "-DJIT=1", "-DJIT_cpu=1"]
    content = f"{HEADER.read_text()}// {shlex.join(command)}\n"
    with contextlib.suppress(OSError):
        if header.read_text() == content and size.read_text() == str(compiled.stat().st_size):
            return
    header.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=header.parent) as folder:
        source, output = Path(folder, header.name), Path(folder, compiled.name)
        source.write_text(content)
        command += ["-x", "c++-header", str(source), "-o", str(output)]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if done.returncode == 0:
            os.replace(source, header)
            os.replace(output, compiled)
            size.write_text(str(compiled.stat().st_size))
