"""Imports Jittor, whose core a child process compiles first where that is still to be done."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import json
import os
import re
import sys
import traceback
from pathlib import Path

from siren.runtime.child import run_interruptibly
from siren.runtime.cuda import find_cuda
from siren.runtime.environment import setting
from siren.runtime.handlers import load_without_handlers, sigterm_as_by_default
from siren.runtime.paths import digest, is_shell_safe
from siren.runtime.problem import RuntimeProblem, describe_error, last_line, plain, say
from siren.runtime.processes import under_mpirun
from siren.signals import held_back

# Variables, beside the names in the path of its cache, that Jittor's core is compiled by.
_COMPILED_BY = (
    *("cc_path", "cc_flags", "nvcc_path", "nvcc_flags", "CPLUS_INCLUDE_PATH", "python_config_path"),
    *("debug", "enable_lto", "use_data_gz", "cuda_arch", "cuda_debug", "ASCEND_TOOLKIT_HOME"),
    *("use_mkl", "use_cutt", "use_cutlass", "use_nccl", "conv_opt", "CONDA_PREFIX"),
)


def import_jittor(device: str, verbose: bool = False) -> None:
    """Import Jittor; Ctrl-C and SIGTERM stay with Python, at once or as soon as it is imported.

    Args:
        device: as for ``prepare``, which has been called with it.
        verbose: likewise.

    Raises:
        RuntimeProblem: it cannot be compiled or imported.
    """
    with _problems_in_one_line(verbose):
        import jittor_utils
    if under_mpirun() and not _core_exists(jittor_utils.cache_path):
        # The compiler's output and the end of all processes are mpirun's business.
        say(_prepare_compilation(jittor_utils.cache_path))
        with _problems_in_one_line(verbose), sigterm_as_by_default():
            load_without_handlers(load_jittor)
            _stop_workers(jittor_utils)
        return
    with _problems_in_one_line(verbose):
        stamp = _stamp(jittor_utils.cache_path)
        if not under_mpirun() and not (stamp.exists() and _core_exists(jittor_utils.cache_path)):
            _compile_in_a_child(stamp, device, verbose)
    with held_back(), _problems_in_one_line(verbose), _one_at_a_time(jittor_utils):
        load_without_handlers(lambda: _load_utilities(jittor_utils))
        load_without_handlers(load_jittor)


def load_jittor() -> None:
    """Import Jittor, without more ado but for one of its habits.

    It follows all links to its own sources, and so would leave the links that lead to an odd place
    by a name that a shell takes.
    """
    real = os.path.realpath

    def realpath(path, **options):
        found = real(path, **options)
        return found if is_shell_safe(os.fspath(found)) else os.path.abspath(path)

    os.path.realpath = realpath
    try:
        import jittor  # noqa: F401
    except BaseException:
        if "jittor_core" in sys.modules:  # whose threads would abort the process at its end
            sys.modules["jittor_core"].cleanup()
        raise
    finally:
        os.path.realpath = real


def _load_utilities(jittor_utils) -> None:
    """Load the library that installs Jittor's handlers, so that they are in force for moments."""
    flags = os.RTLD_NOW | os.RTLD_GLOBAL | getattr(os, "RTLD_DEEPBIND", 0)  # as Jittor does it
    with jittor_utils.import_scope(flags):
        jittor_utils.try_import_jit_utils_core()


# ---- the compilation --------------------------------------------------------------------------


def _core_exists(cache_path: str) -> bool:
    """Whether there is a core for this machine, Python and compiler, if not for all settings."""
    pattern = "cu*/jittor_core*.so" if setting("nvcc_path") else "jittor_core*.so"
    return any(Path(cache_path).glob(pattern))


def _stamp(cache_path: str) -> Path:
    """The file that says that the core is compiled for the settings of now."""
    cuda = find_cuda() if setting("nvcc_path") else None
    settings = [os.environ.get(name) for name in _COMPILED_BY]
    return Path(cache_path, f"siren-compiled-{digest(json.dumps([settings, str(cuda)]))}")


def _prepare_compilation(cache_path: str) -> str:
    """Clear what an interrupted compilation has left; returns what to tell the user meanwhile."""
    from jittor_utils import lock

    expected = "a few minutes" if setting("nvcc_path") else "about two minutes"
    # Jittor holds this lock while it compiles; a second process waits for it inside the import.
    with open(lock.lock_path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return (
                f"Another process is compiling Jittor's core, {expected} in all; "
                "waiting until it is done ..."
            )
        for library in Path(cache_path).glob("jit_utils_core*.so"):
            # Jittor loads what is there; a library that lacks its end would crash it every time.
            if not library.with_name(library.name + ".key").exists():
                library.unlink()
    return f"Jittor compiles its core once on this machine: {expected} ..."


def _compile_in_a_child(stamp: Path, device: str, verbose: bool) -> None:
    """Let a child process import Jittor, so that here everything is compiled."""
    code = (
        "from siren.runtime import jittor_import, prepare\n"
        f"prepare({device!r}, {verbose!r})\n"
        "jittor_import.load_jittor()\n"
        f"open({str(stamp)!r}, 'w').close()\n"
    )
    for _ in range(3):  # Jittor gives up, with status 0, once it has rebuilt what is loaded already
        announcement = _prepare_compilation(str(stamp.parent))
        child = run_interruptibly(["-c", code], verbose, announcement)
        if child.returncode or stamp.exists():
            break
    if child.returncode:
        raise RuntimeProblem(f"Jittor cannot be compiled: {_reason(child)}")


def _reason(child) -> str:
    """Why the compilation has failed, by the child's output."""
    output = plain(child.stdout)
    if child.returncode < 0 or re.search(r"Caught SIGCHLD|Killed signal|signal terminated", output):
        return (
            "its compiler was killed, perhaps for lack of memory; close other programs and run the "
            "same command again, which keeps what is compiled already."
        )
    errors = [line for line in output.splitlines() if re.search(r"\b(fatal )?error: ", line)]
    return last_line(errors[0] if errors else output)


@contextlib.contextmanager
def _one_at_a_time(jittor_utils):
    """Within its context Jittor checks what is compiled without worker processes of its own.

    Where everything is compiled they would only cost time, and Ctrl-C in a terminal reaches them:
    one that dies holds a lock that the exit then waits for, for ever.
    """

    def run_cmds(commands, cache_path, jittor_path, msg=""):
        for command in commands:
            jittor_utils.do_compile([command, cache_path, jittor_path])

    with_workers = jittor_utils.run_cmds
    jittor_utils.run_cmds = run_cmds
    try:
        yield
    finally:
        jittor_utils.run_cmds = with_workers


def _stop_workers(jittor_utils) -> None:
    """End Jittor's worker processes, for the reasons of ``_one_at_a_time``; it starts new ones."""
    if jittor_utils.pool_size:
        atexit.unregister(jittor_utils.pool_cleanup)
        jittor_utils.pool_cleanup()
        jittor_utils.pool_size = 0


@contextlib.contextmanager
def _problems_in_one_line(verbose: bool):
    """Turn whatever an import of Jittor raises into a RuntimeProblem."""
    try:
        yield
    except RuntimeProblem:
        raise
    except SystemExit as error:  # Jittor has compiled a part of itself that is already loaded
        raise RuntimeProblem(
            "Jittor has been rebuilt for changed compiler settings; run the same command again."
        ) from error
    except Exception as error:
        if verbose:
            traceback.print_exc(file=sys.stderr)
        if isinstance(error, ModuleNotFoundError) and error.name in ("jittor", "jittor_utils"):
            raise RuntimeProblem(
                "Jittor is missing; pip install -r requirements.txt provides it."
            ) from error
        raise RuntimeProblem(f"Jittor cannot be imported: {describe_error(error)}") from error
