"""Compiles Jittor's core in half, and its operators in a quarter, of the time that Jittor takes.

Most of that time goes into headers, the same ones for every file. Here they are compiled once.

The core is some 150 files, which Jittor compiles with -O2, once on a machine. Code that runs only
while kernels are compiled is not optimized here, and the rest gets -O1, which costs 0.1 ms or less
of a training step. The kernels themselves are none of these files.

Operators are compiled when Jittor first meets them. It has a Python script (``asm_tuner.py``)
replace stores of large operators by ones that bypass the cache, which gains nothing measurable, and
is left out. The flags stay as they are, but for FLAGS.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

_SILENT = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}

# ---- the core ----

CORE_HEADER = Path(__file__).with_name("core.h")
CORE_FOLDER = "siren-core"  # in Jittor's cache, while the core is compiled; the header takes 80 MB

# Files that do next to nothing in a training step; the others get -O1.
_COLD = re.compile(
    r"/src/(opt|test|codegen|profiler|type)/|tuner|miniz|op_compiler|jit_compiler|mem_info"
    r"|memory_profiler|swap|pyjt_(?!var_holder|jit_op_maker|core|nano)"
)
_COMMAND = re.compile(
    r'(?P<compiler>"[^"]+") (?P<source>"[^"]+")(?P<flags>.*) -c -o (?P<output>.*)'
)


def accelerate_core(jittor_utils) -> None:
    """Replace the functions of ``jittor_utils`` that compile; Jittor is not imported yet."""
    global _cache_compile
    run_cmd, run_cmds = jittor_utils.run_cmd, jittor_utils.run_cmds
    _cache_compile = jittor_utils.do_compile

    def run_once(command: str, *arguments, **options) -> str:
        """Run a command that Jittor does not run in parallel."""
        if "jit_utils_core" in command:
            command += " -O0"  # Jittor compiles this library a second time, for its record
        elif "/data.cc" in command:
            command += " -O1"
        return run_cmd(command, *arguments, **options)

    def run_all(commands: list[str], cache_path: str, *arguments, **options) -> None:
        """Run ``commands`` in parallel: the longest first, so that it is not left at the end."""
        folder = Path(cache_path, CORE_FOLDER)
        shutil.rmtree(folder, ignore_errors=True)  # the remains of a compilation that was killed
        if sum(map(is_missing, commands)) > 20:
            precompile_for_core(commands, folder)
        longest = max(commands, key=_size)
        commands = [longest, *(command for command in commands if command != longest)]
        try:
            run_cmds(commands, cache_path, *arguments, **options)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    if jittor_utils.cc_type == "g++":
        jittor_utils.run_cmd, jittor_utils.run_cmds = run_once, run_all
        jittor_utils.do_compile = compile_file
    jittor_utils.DelayProgress = Counter
    # Jittor starts a compiler for every 3 GiB of memory, however few processors there are.
    memory = jittor_utils.get_total_mem()
    jittor_utils.get_total_mem = lambda: min(memory, len(os.sched_getaffinity(0)) * 3 * 2**30)


class Counter:
    """Prints how many commands are done, for the parent process."""

    def __init__(self, title: str, count: int):
        self.title, self.count = title, count

    def update(self, index: int) -> None:
        """The command ``index``, counted from 0 in the order of completion, is done."""
        print(f"{self.title}({index + 1}/{self.count})", flush=True)


def compile_file(job: list[str]) -> bool:
    """As Jittor's ``do_compile``, with our options, which are hidden from the record of the file.

    ``job`` is [command, path of the cache, path of Jittor]. Jittor compiles a file again if the
    command in its record differs. Returns whether the file had to be compiled.
    """
    command, *paths = job
    match = _COMMAND.fullmatch(command.strip())
    if not match or match["source"].endswith('.cu"'):
        return _cache_compile(job)
    options = _options(match["source"], Path(paths[0], CORE_FOLDER))
    record = Path(match["output"].strip('"') + ".key")
    _edit_record(record, lambda line: line + options)
    try:
        return _cache_compile([command + options, *paths])
    except Exception:  # a header that does not suit this file, perhaps
        record.unlink(missing_ok=True)
        return _cache_compile(job)
    finally:
        _edit_record(record, lambda line: line.removesuffix(options))


def _options(source: str, folder: Path) -> str:
    """What is added to the command for ``source``; ``folder`` may have precompiled headers."""
    level = "-O0" if _COLD.search(source) else "-O1"
    header = folder / level / CORE_HEADER.name
    precompiled = header.with_name(header.name + ".gch").exists()
    return f' {level} --include="{header}"' if precompiled else f" {level}"


def _edit_record(record: Path, edit) -> None:
    """Apply ``edit`` to the first line of a record, which is the command."""
    if record.exists():
        command, rest = record.read_text().split("\n", 1)
        record.write_text(f"{edit(command)}\n{rest}")


def is_missing(command: str) -> bool:
    """Whether the file that ``command`` writes is not there yet, or it does not say which."""
    output = re.search(r' -o "([^"]*)"', command)
    return not (output and os.path.exists(output[1]))


def _size(command: str) -> int:
    """The size of the file that ``command`` compiles, in bytes: a measure of the time it takes."""
    source = re.search(r'"[^"]+" "([^"]+)"', command)
    return os.path.getsize(source[1]) if source and os.path.exists(source[1]) else 0


def precompile_for_core(commands: list[str], folder: Path) -> None:
    """Compile the header with the options of ``commands``, once for each level of optimization.

    Each level has a folder of its own in ``folder``. What does not compile is left out.
    """
    match = next(filter(None, map(_COMMAND.fullmatch, map(str.strip, commands))))
    processes = []
    for level in ("-O0", "-O1"):
        header = folder / level / CORE_HEADER.name
        header.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CORE_HEADER, header)
        command = f'{match["compiler"]} {match["flags"]} {level} -x c++-header "{header}"'
        command += f' -o "{header}.gch"'
        processes.append(subprocess.Popen(command, shell=True, **_SILENT))
    for process in processes:
        process.wait()


# ---- operators ----

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
        if subprocess.run(command, **_SILENT).returncode == 0:
            os.replace(source, header)
            os.replace(output, compiled)
            size.write_text(str(compiled.stat().st_size))
