"""Compiles Jittor's core in less than half of the time that Jittor takes, once on a machine.

Most of that time goes into headers, the same ones for every file. Here they are compiled once.

The core is some 150 files, which Jittor compiles with -O2. Code that runs only while kernels are
compiled is not optimized here, and the rest gets -O1, which costs 0.1 ms or less of a training
step. The kernels themselves are none of these files.

Before them Jittor compiles a library of five files, one by one, with which it then compiles and
records the others, and a large file called data.cc. Here the five are compiled at the same time. So
are files that are needed only when the core is linked: data.cc, and the longest of the 150, the
bindings of operators, which takes as long as the headers and all others on many processors; and the
header of operators, which would come last.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from siren import memory
from siren.runtime import jit

HEADER = Path(__file__).with_name("core.h")
FOLDER = "siren-core"  # in Jittor's cache, while the core is compiled; two headers take 160 MB
# With fewer bytes of memory for this process, no more compilers run at a time than Jittor starts;
# with fewer on the disk, the header of operators comes last, when there may be no room for it.
MEMORY, DISK = 4 << 30, 400 << 20

# Files that do next to nothing in a training step; the others get -O1.
_COLD = re.compile(
    r"/src/(opt|test|codegen|profiler|type)/|tuner|miniz|op_compiler|jit_compiler|mem_info"
    r"|memory_profiler|swap|pyjt_(?!var_holder|jit_op_maker|core|nano)"
)
_COMMAND = re.compile(
    r'(?P<compiler>"[^"]+") (?P<source>"[^"]+")(?P<flags>.*) -c -o (?P<output>.*)'
)
_LIBRARY = re.compile(r'("[^"]+") ((?:"[^"]+\.cc" )+)(.*) -o "([^"]*jit_utils_core[^"]*)"')
_DATA = re.compile(r'"([^"]*/data\.cc)"')
_cache_compile: Callable[[list[str]], bool]  # Jittor's own ``do_compile``


@contextlib.contextmanager
def accelerated(jittor_utils) -> Iterator[None]:
    """A context in which ``import jittor`` compiles the core as above, if it has to.

    Other compilers than g++ have no such headers, and get the same commands as ever.
    """
    global _cache_compile
    _cache_compile = jittor_utils.do_compile
    total = jittor_utils.get_total_mem()
    compiler = _Compiler(jittor_utils, Meanwhile(memory.available() >= MEMORY))
    if jittor_utils.cc_type == "g++":
        jittor_utils.run_cmd, jittor_utils.run_cmds = compiler.run_once, compiler.run_all
        jittor_utils.do_compile = compile_file
    jittor_utils.DelayProgress = Counter
    # Jittor starts a compiler for every 3 GiB of memory, however few processors there are.
    jittor_utils.get_total_mem = lambda: min(total, len(os.sched_getaffinity(0)) * 3 * 2**30)
    try:
        yield
    finally:
        if compiler.folder is not None:
            shutil.rmtree(compiler.folder, ignore_errors=True)


class _Compiler:
    """Runs the commands that compile the core.

    folder  that of the precompiled headers, or None
    """

    def __init__(self, jittor_utils, meanwhile: Meanwhile):
        self.jittor_utils, self.meanwhile = jittor_utils, meanwhile
        self.run_cmd, self.run_cmds = jittor_utils.run_cmd, jittor_utils.run_cmds
        self.folder: Path | None = None

    def run_once(self, command: str, *arguments, **options) -> str:
        """Run a command for which Jittor waits, or begin with it if nothing needs it yet."""
        if match := _LIBRARY.fullmatch(command.strip()):
            _compile_in_parts(*match.groups(), self.run_cmd, self.meanwhile)
            self._record_without_compiling(match[1], match[4])
            return ""
        match = _DATA.search(command)
        command += " -O1" if match else ""
        if match and self.meanwhile.room:
            Path(match[1]).with_suffix(".o").unlink(missing_ok=True)  # or an older one could stay
            source = open(match[1])  # noqa: SIM115, because Jittor removes it at once
            command = command.replace(match[0], "-x c++ -")
            self.meanwhile.start(_compile_open_file, source, self.run_cmd, command)
            return ""
        return self.run_cmd(command, *arguments, **options)

    def _record_without_compiling(self, compiler: str, output: str) -> None:
        """Jittor compiles its library a second time, to have a record of it: just record it."""
        load = self.jittor_utils.try_import_jit_utils_core

        def load_library(*arguments) -> None:
            load(*arguments)
            self.jittor_utils.try_import_jit_utils_core = load
            if library := self.jittor_utils.cc:
                check = library.cache_compile

                def record(command: str, *paths: str) -> bool:
                    library.cache_compile = check
                    recorded = check(command.replace(compiler, '"true"', 1), *paths)
                    key = Path(f"{output}.key")
                    _edit_record(key, lambda line: line.replace('"true"', compiler, 1))
                    return recorded

                library.cache_compile = record

        self.jittor_utils.try_import_jit_utils_core = load_library

    def run_all(self, commands: list[str], cache_path: str, jittor_path: str, *arguments) -> None:
        """Run ``commands`` in parallel: the longest first, so that none is left at the end."""
        commands = sorted(commands, key=_size, reverse=True)
        if sum(map(is_missing, commands)) > 20:
            self.folder = Path(cache_path, FOLDER)
            if self.meanwhile.room:
                job = [commands.pop(0), cache_path, jittor_path]
                self.meanwhile.start(_compile, job, " -O1")  # without waiting for the header
            precompile(commands, self.folder)
            if self.meanwhile.room and shutil.disk_usage(cache_path).free >= DISK:
                header = Path(cache_path, jit.FOLDER, jit.HEADER.name)
                self.meanwhile.start(_precompile_for_operators, header)
        self.run_cmds(commands, cache_path, jittor_path, *arguments)
        self.meanwhile.wait()


class Meanwhile:
    """Processes whose results are needed later; without ``room`` for them, none.

    What fails in one of them, as for lack of memory, is tried again alone.
    """

    def __init__(self, room: bool):
        self.room = room
        self.jobs = []

    def start(self, target: Callable, *arguments) -> None:
        """Call ``target`` with the arguments in another process, or here."""
        if not self.room:
            target(*arguments)
            return
        job = target, *arguments
        process = multiprocessing.get_context("fork").Process(target=_as_child, args=job)
        process.start()
        self.jobs.append((process, job))

    def wait(self) -> None:
        """Wait for all of them; raises what the second attempt of one that has failed raises."""
        for process, _ in self.jobs:
            process.join()
        failed = [job for process, job in self.jobs if process.exitcode]
        self.jobs.clear()
        for target, *arguments in failed:
            target(*arguments)


def _as_child(target: Callable, *arguments) -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: end with the parent
    target(*arguments)


class Counter:
    """Prints how many commands are done, for the parent process."""

    def __init__(self, title: str, count: int):
        self.title, self.count = title, count

    def update(self, index: int) -> None:
        """The command ``index``, counted from 0 in the order of completion, is done."""
        print(f"{self.title}({index + 1}/{self.count})", flush=True)


def _compile_in_parts(compiler, sources, flags, output, run_cmd, meanwhile) -> None:
    """Compile a library of several files at the same time, of the parts of a command."""
    objects = []
    with tempfile.TemporaryDirectory() as folder:
        for number, source in enumerate(shlex.split(sources)):
            objects.append(f'"{folder}/{number}.o"')
            meanwhile.start(run_cmd, f'{compiler} "{source}" {flags} -O1 -c -o {objects[-1]}')
        meanwhile.wait()
        run_cmd(f'{compiler} {" ".join(objects)} {flags} -o "{output}"')


def _compile_open_file(source: IO, run_cmd: Callable, command: str) -> None:
    """Run a ``command`` that reads the ``source`` from its standard input."""
    source.seek(0)
    os.dup2(source.fileno(), 0)
    run_cmd(command)


def _precompile_for_operators(header: Path) -> None:
    """What ``jit.accelerate_operators`` would do after all else."""
    compiler = sys.modules["jittor.compiler"]  # which is being imported
    flags = compiler.cc_flags + compiler.kernel_opt_flags
    with contextlib.suppress(OSError):
        jit.precompile(header, compiler.cc_path, flags)


def compile_file(job: list[str]) -> bool:
    """As Jittor's ``do_compile``, with our options, which are hidden from the record of the file.

    ``job`` is [command, path of the cache, path of Jittor]. Jittor compiles a file again if the
    command in its record differs. Returns whether the file had to be compiled.
    """
    match = _COMMAND.fullmatch(job[0].strip())
    if not match or match["source"].endswith('.cu"'):
        return _cache_compile(job)
    return _compile(job, _options(match["source"], Path(job[1], FOLDER)))


def _compile(job: list[str], options: str) -> bool:
    """The same, with these ``options``."""
    command, *paths = job
    record = Path(_COMMAND.fullmatch(command.strip())["output"].strip('"') + ".key")
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
    header = folder / level / HEADER.name
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


def precompile(commands: list[str], folder: Path) -> None:
    """Compile the header with the options of ``commands``, once for each level of optimization.

    Each level has a folder of its own in ``folder``. What does not compile is left out.
    """
    match = next(filter(None, map(_COMMAND.fullmatch, map(str.strip, commands))))
    processes = []
    for level in ("-O0", "-O1"):
        header = folder / level / HEADER.name
        header.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(HEADER, header)
        command = f'{match["compiler"]} {match["flags"]} {level} -x c++-header "{header}"'
        command += f' -o "{header}.gch"'
        processes.append(
            subprocess.Popen(
                command, shell=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        )
    for process in processes:
        process.wait()
