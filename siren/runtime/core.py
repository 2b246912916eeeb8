"""Compiles Jittor's core in less than half the time that Jittor itself takes.

Jittor compiles some 150 files with -O2, and most of that time goes into headers, the same ones for
every file, and into code that runs only while kernels are compiled. Here the headers are compiled
once for all files, such code is not optimized, and the rest gets -O1, which costs 0.1 ms or less of
a training step. The kernels themselves are none of these files.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

HEADER = Path(__file__).with_name("core.h")
FOLDER = "siren-core"  # in Jittor's cache, while the core is compiled; the header takes 80 MB

# Files that do next to nothing in a training step; the others get -O1.
_COLD = re.compile(
    r"/src/(opt|test|codegen|profiler)/|tuner|miniz|pyjt_(?!var_holder|jit_op_maker|core|nano)"
)
_COMMAND = re.compile(
    r'(?P<compiler>"[^"]+") (?P<source>"[^"]+")(?P<flags>.*) -c -o (?P<output>.*)'
)
_SEPARATOR = "\0"  # between a command of Jittor's and what is added to it


def accelerate(jittor_utils) -> None:
    """Replace the functions of ``jittor_utils`` that compile; Jittor is not imported yet."""
    global _cache_compile
    run_cmd, run_cmds = jittor_utils.run_cmd, jittor_utils.run_cmds
    _cache_compile = jittor_utils.do_compile

    def run_once(command: str, *arguments, **options) -> str:
        """Run a command that Jittor does not run in parallel."""
        return run_cmd(command + _unshared_options(command), *arguments, **options)

    def run_all(commands: list[str], cache_path: str, *arguments, **options) -> None:
        """Run ``commands`` in parallel: the longest first, so that it is not left at the end."""
        folder = Path(cache_path, FOLDER)
        precompiled = len(commands) > 20 and _precompile(commands, folder)
        commands = [_with_options(command, folder if precompiled else None) for command in commands]
        commands.insert(0, commands.pop(commands.index(max(commands, key=_size))))
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
    """Run one command with our options, and leave Jittor's record of it as if it had none.

    job   [command, path of the cache, path of Jittor]

    Jittor compiles a file again if the command in its record differs. Returns whether the file had
    to be compiled.
    """
    command, *paths = job
    command, _, options = command.partition(_SEPARATOR)
    match = options and _COMMAND.fullmatch(command.strip())
    if not match:
        return _cache_compile([command, *paths])
    record = Path(match["output"].strip('"') + ".key")
    _edit_record(record, lambda line: line + options)
    try:
        return _cache_compile([command + options, *paths])
    except Exception:  # a header that does not suit this file, perhaps
        record.unlink(missing_ok=True)
        return _cache_compile([command, *paths])
    finally:
        _edit_record(record, lambda line: line.removesuffix(options))


def _edit_record(record: Path, edit) -> None:
    """Apply ``edit`` to the first line of a record, which is the command."""
    if record.exists():
        command, rest = record.read_text().split("\n", 1)
        record.write_text(f"{edit(command)}\n{rest}")


def _unshared_options(command: str) -> str:
    """Options for the files that Jittor compiles before all others."""
    if "jit_utils_core" in command:
        return " -O0"  # Jittor compiles this library a second time, for its record
    return " -O1" if "/data.cc" in command else ""


def _with_options(command: str, folder: Path | None) -> str:
    """A command of Jittor's, and what is added to it; ``folder`` has the precompiled headers."""
    match = _COMMAND.fullmatch(command.strip())
    if not match or match["source"].endswith('.cu"'):
        return command
    level = "-O0" if _COLD.search(match["source"]) else "-O1"
    include = f' --include="{folder / level / HEADER.name}"' if folder else ""
    return f"{command}{_SEPARATOR} {level}{include}"


def _size(command: str) -> int:
    """The size of the file that ``command`` compiles, in bytes: a measure of the time it takes."""
    match = _COMMAND.match(command)
    try:
        return Path(match["source"].strip('"')).stat().st_size if match else 0
    except OSError:
        return 0


def _precompile(commands: list[str], folder: Path) -> bool:
    """Compile the header with the options of ``commands``, once for each level of optimization.

    Each level has a folder of its own in ``folder``. Returns whether the header compiles.
    """
    match = next(filter(None, map(_COMMAND.fullmatch, map(str.strip, commands))))
    processes = []
    for level in ("-O0", "-O1"):
        header = folder / level / HEADER.name
        header.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(HEADER, header)
        command = f'{match["compiler"]} {match["flags"]} {level} -x c++-header "{header}"'
        command += f' -o "{header}.gch"'
        nowhere = subprocess.DEVNULL
        processes.append(subprocess.Popen(command, shell=True, stdout=nowhere, stderr=nowhere))
    statuses = [process.wait() for process in processes]
    return not any(statuses)
