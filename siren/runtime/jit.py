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

import atexit
import contextlib
import multiprocessing
import os
import platform
import re
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

_SILENT = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}

# ---- the core ----

CORE_HEADER = Path(__file__).with_name("core.h")
CORE_FOLDER = "siren-core"  # in Jittor's cache, while the core is compiled; the header takes 80 MB

# Files that do next to nothing in a training step; the others get -O1.
_COLD = re.compile(
    r"/src/(opt|test|codegen|profiler|type)/|tuner|miniz|op_compiler|jit_compiler|mem_info"
    r"|memory_profiler|swap|pyjt_(?!var_holder|jit_op_maker|core|nano)"
)
_LIBRARY = re.compile(r'("[^"]+") ((?:"[^"]+\.cc" )+)(.*) -o ("[^"]*jit_utils_core[^"]*")')
_COMMAND = re.compile(
    r'(?P<compiler>"[^"]+") (?P<source>"[^"]+")(?P<flags>.*) -c -o (?P<output>.*)'
)


def accelerate_core(jittor_utils) -> None:
    """Replace the functions of ``jittor_utils`` that compile; Jittor is not imported yet."""
    global _cache_compile
    _cache_compile = jittor_utils.do_compile
    if jittor_utils.cc_type == "g++":
        compiler = CoreCompiler(jittor_utils)
        jittor_utils.run_cmd, jittor_utils.run_cmds = compiler.run_once, compiler.run_all
        jittor_utils.do_compile = compile_file
    jittor_utils.DelayProgress = Counter
    # Jittor starts a compiler for every 3 GiB of memory, however few processors there are.
    memory = jittor_utils.get_total_mem()
    jittor_utils.get_total_mem = lambda: min(memory, len(os.sched_getaffinity(0)) * 3 * 2**30)


class CoreCompiler:
    """Runs the commands that compile the core, as many as possible at the same time."""

    def __init__(self, jittor_utils):
        self.jittor_utils = jittor_utils
        self.run_cmd, self.run_cmds = jittor_utils.run_cmd, jittor_utils.run_cmds
        self.meanwhile = Meanwhile()

    def run_once(self, command: str, *arguments, **options) -> str:
        """Run a command for which Jittor waits, or begin with it if nothing needs it yet."""
        if match := _LIBRARY.fullmatch(command.strip()):
            compile_in_parts(*match.groups(), self.run_cmd)
            self._record_later()
        elif match := re.search(r'"([^"]*/data\.cc)"', command):
            source = open(match[1])  # noqa: SIM115, because Jittor removes it at once
            command = command.replace(match[0], "-x c++ -")
            self.meanwhile.start(_compile_open_file, source, self.run_cmd, f"{command} -O1")
        else:
            return self.run_cmd(command, *arguments, **options)
        return ""

    def _record_later(self) -> None:
        """Jittor compiles its first library twice, to have a record of it: not before all else."""
        load = self.jittor_utils.try_import_jit_utils_core

        def load_library(*arguments) -> None:
            load(*arguments)
            self.jittor_utils.try_import_jit_utils_core = load
            library, check = self.jittor_utils.cc, self.jittor_utils.cc.cache_compile

            def begin(*arguments) -> bool:
                library.cache_compile = check
                self.meanwhile.start(check, *arguments)
                return True

            library.cache_compile = begin

        self.jittor_utils.try_import_jit_utils_core = load_library

    def run_all(self, commands: list[str], cache_path: str, jittor_path: str, *arguments) -> None:
        """Run ``commands`` in parallel: the longest first, so that none is left at the end."""
        folder = Path(cache_path, CORE_FOLDER)
        commands = sorted(commands, key=_size, reverse=True)
        if sum(map(is_missing, commands)) > 20:
            # With many processors all others are done before it; it does not wait for the header.
            self.meanwhile.start(compile_file, [commands.pop(0), cache_path, jittor_path])
            shutil.rmtree(folder, ignore_errors=True)  # the remains of one that was killed
            atexit.register(shutil.rmtree, folder, ignore_errors=True)  # a GPU's part needs it too
            precompile_for_core(commands, folder)
        self.run_cmds(commands, cache_path, jittor_path, *arguments)
        self.meanwhile.wait()


class Meanwhile:
    """Processes whose results are needed later."""

    def __init__(self):
        self.processes = []

    def start(self, target: Callable, *arguments) -> None:
        """Call ``target`` with the arguments in another process."""
        process = multiprocessing.get_context("fork").Process(target=target, args=arguments)
        process.start()
        self.processes.append(process)

    def wait(self) -> None:
        """Wait for all of them; raises RuntimeError if one has failed, which has said why."""
        while self.processes:
            process = self.processes.pop()
            process.join()
            if process.exitcode:
                raise RuntimeError("a file of Jittor's core does not compile")


def compile_in_parts(
    compiler: str, sources: str, flags: str, output: str, run_cmd: Callable
) -> None:
    """Compile a library of several files at the same time, of the parts of a command."""
    meanwhile, objects = Meanwhile(), []
    with tempfile.TemporaryDirectory() as folder:
        for number, source in enumerate(shlex.split(sources)):
            objects.append(f'"{folder}/{number}.o"')
            part = f'{compiler} "{source}" {flags} -O1 -c -o {objects[-1]}'
            meanwhile.start(run_cmd, part)
        meanwhile.wait()
        run_cmd(f"{compiler} {' '.join(objects)} {flags} -o {output}")


def _compile_open_file(source: IO, run_cmd: Callable, command: str) -> None:
    """Run a ``command`` that reads the ``source`` from its standard input."""
    os.dup2(source.fileno(), 0)
    run_cmd(command)


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


def accelerate_operators(compiler) -> None:
    """Let Jittor compile operators with ``jit.sh``, and precompile their headers meanwhile.

    Other compilers than g++ have no such headers. Without them Jittor compiles as ever.

    compiler  the module ``jittor.compiler``
    """
    flags = compiler.flags
    if compiler.cc_type != "g++" or SCRIPT.name in flags.python_path:
        return
    header = Path(flags.cache_path, FOLDER, HEADER.name)
    with contextlib.suppress(OSError):
        header.parent.mkdir(parents=True, exist_ok=True)
        # While the rest of Jittor's import compiles its part for a GPU
        arguments = header, flags.cc_path, flags.cc_flags
        threading.Thread(target=precompile, args=arguments).start()
        script = header.with_name(SCRIPT.name)
        if not script.exists() or script.read_text() != SCRIPT.read_text():
            shutil.copy(SCRIPT, script)
        flags.python_path = (
            f'sh "{script}" --python="{flags.python_path}" --header="{header}" '
            f'--flags="{" ".join(FLAGS)}"'
        )


def precompile(header: Path, compiler: str, flags: str) -> None:
    """Write ``header`` and its precompiled form, unless they are there, up to date and whole.

    If that fails, they are left out.
    """
    compiled, size = header.with_name(header.name + ".gch"), header.with_name(header.name + ".size")
    options = [f for f in shlex.split(flags) if not f.startswith(("-l", "-L", "-Wl,", "-shared"))]
    # What Jittor adds for every operator
    command = [compiler, *options, *FLAGS, "-fopenmp", "-Ofast", "-DJIT=1", "-DJIT_cpu=1"]
    content = f"{HEADER.read_text()}// {shlex.join(command)}\n"
    with contextlib.suppress(OSError):
        if header.read_text() == content and size.read_text() == str(compiled.stat().st_size):
            return
    with (
        contextlib.suppress(OSError),
        tempfile.TemporaryDirectory(dir=header.parent) as folder,
    ):
        source, output = Path(folder, header.name), Path(folder, compiled.name)
        source.write_text(content)
        command += ["-x", "c++-header", str(source), "-o", str(output)]
        if subprocess.run(command, **_SILENT).returncode == 0:
            os.replace(source, header)
            os.replace(output, compiled)
            size.write_text(str(compiled.stat().st_size))
