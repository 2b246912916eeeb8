"""Imports Jittor; if its core is not compiled, or is damaged, a child process compiles it first.

Jittor's signal handlers end the process at once, on Ctrl-C and when any child process is killed.
They are removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import os
import shutil
import signal
import struct
import sys
import warnings
from pathlib import Path

from siren.runtime import core, jit
from siren.runtime.cuda import find_cuda
from siren.runtime.environment import digest, is_shell_safe, setting
from siren.runtime.install import missing_package
from siren.runtime.messages import Compilation, Problem, describe_error, failure, why_it_failed
from siren.runtime.patches import jittor_folder, replaced, without_checks
from siren.runtime.processes import rank, run_interruptibly, under_mpirun
from siren.signals import deferred, in_main_thread

STAMP = "siren-compiled-"  # the beginning of a file's name (_stamp)
# Variables that affect the compilation of Jittor's core, besides those in the path of its cache.
_COMPILED_BY = (
    *("cc_path", "cc_flags", "nvcc_path", "nvcc_flags", "CPLUS_INCLUDE_PATH", "python_config_path"),
    *("debug", "enable_lto", "use_data_gz", "cuda_arch", "cuda_debug", "ASCEND_TOOLKIT_HOME"),
    *("use_mkl", "use_cutt", "use_cutlass", "use_nccl", "conv_opt", "CONDA_PREFIX"),
)
# If this variable is set, Jittor assumes a notebook and does not handle Ctrl-C.
_NOTEBOOK = "JPY_PARENT_PID"


def import_jittor(device: str, verbose: bool = False) -> None:
    """Import Jittor. Python keeps Ctrl-C and SIGTERM, but handles them only after the import.

    While a child process compiles the core, they are handled at once. The arguments are those with
    which ``prepare`` has been called. Raises Problem if Jittor cannot be compiled or imported.
    """
    with _as_problem():
        import jittor_utils

        remove_damaged(jittor_utils.cache_path)
        stamp = _stamp(jittor_utils.cache_path)
        if not stamp.exists():
            _compile_in_child(stamp, device, verbose)
    with deferred(), _as_problem(), _without_workers(jittor_utils):
        with _without_handlers():  # loads what installs them, so that they are active only briefly
            jittor_utils.is_in_ipynb = False  # in a notebook it would print "Load log_sync: 1"
            flags = os.RTLD_NOW | os.RTLD_GLOBAL | getattr(os, "RTLD_DEEPBIND", 0)  # as Jittor does
            with jittor_utils.import_scope(flags):
                jittor_utils.try_import_jit_utils_core()
        # Under mpirun and for a GPU, Jittor compiles more than what the stamp is about.
        more = under_mpirun() or setting("nvcc_path")
        checked = more or jittor_utils.cc is None
        unchecked = contextlib.nullcontext() if checked else without_checks(jittor_utils)
        with _without_handlers(), unchecked:
            load_jittor()


def load_jittor() -> None:
    """Import Jittor, with a patched ``os.path.realpath``.

    Jittor resolves all links to its own sources. That would replace our shell-safe link to a folder
    by the folder's real path, which a shell would split; such links stay unresolved.

    With a GPU it leaves ``cuda_arch`` in the environment, where a child process would take it for
    the user's, and the core for one that is compiled for other settings.
    """
    real, arch_is_given = os.path.realpath, "cuda_arch" in os.environ

    def realpath(path, **options):
        resolved = real(path, **options)
        return resolved if is_shell_safe(os.fspath(resolved)) else os.path.abspath(path)

    with replaced(os.path, "realpath", realpath), warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # of a Python newer than Jittor
        try:
            import jittor  # noqa: F401
        except BaseException:
            if "jittor_core" in sys.modules:  # whose threads would abort the process at its end
                sys.modules["jittor_core"].cleanup()
            raise
        finally:
            if not arch_is_given:
                os.environ.pop("cuda_arch", None)


# ---- signals ----------------------------------------------------------------------------------


@contextlib.contextmanager
def _without_handlers():
    """Within its context Jittor installs its handlers; at the end Python's are back."""
    notebook = _NOTEBOOK in os.environ
    os.environ.setdefault(_NOTEBOOK, "0")
    try:
        yield
    finally:
        if not notebook:
            del os.environ[_NOTEBOOK]
        restore_signals()


def restore_signals() -> None:
    """Reinstall the handlers that Python has registered."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGCHLD):
        handler = signal.getsignal(number)
        if handler is not None and in_main_thread():
            signal.signal(number, handler)


# ---- the compilation --------------------------------------------------------------------------


def _stamp(cache_path: str) -> Path:
    """The file that says: the core is compiled of the present sources for the present settings."""
    cuda = find_cuda() if setting("nvcc_path") else None
    macros = sorted(name for name in os.environ if name.startswith("JT"))  # of Jittor's sources
    settings = [[name, os.environ.get(name)] for name in (*_COMPILED_BY, *macros)]
    folder, sources = str(jittor_folder()), []
    for pattern in ("*.py", "utils/*.gz", "src/**/*.[ch]*", "extern/**/*.[ch]*"):
        for path in sorted(glob.glob(f"{glob.escape(folder)}/{pattern}", recursive=True)):
            status = os.stat(path)
            sources.append([path, status.st_size, int(status.st_mtime)])  # as archives keep it
    return Path(cache_path, f"{STAMP}{digest(json.dumps([settings, str(cuda), sources]))}")


def _remove_stamps(cache_path: Path) -> None:
    for stamp in cache_path.glob(f"{STAMP}*"):
        stamp.unlink(missing_ok=True)


def _prepare_compilation(cache_path: str) -> str:
    """Remove the remains of an interrupted compilation; returns the announcement for the user."""
    expected = "a minute or two" if setting("nvcc_path") else "about a minute"
    with locked() as alone:
        if not alone:  # this process will wait for the other inside the import
            return (
                f"Another process is compiling Jittor's core, {expected} in all; "
                "waiting until it is done ..."
            )
        for library in Path(cache_path).glob("jit_utils_core*.so"):
            # Jittor loads any existing library; a truncated one would crash it every time.
            if not library.with_name(library.name + ".key").exists():
                library.unlink()
        for record in Path(cache_path).rglob("data.md5"):  # written before the file (core.py)
            if not record.with_name("data.o").exists():
                record.unlink()
        # Headers of other sources by now, half of one, or what has left no room for the core. (The
        # script beside them may be in use.)
        header = f"{jit.FOLDER}/{jit.HEADER.name}.gch"
        for pattern in (core.FOLDER, f"{jit.FOLDER}/tmp*", header):
            for path in Path(cache_path).rglob(pattern):
                if path.is_file():
                    path.unlink()
                else:
                    shutil.rmtree(path, ignore_errors=True)
    return f"Jittor compiles its core once on this machine: {expected} ..."


def _compile_in_child(stamp: Path, device: str, verbose: bool) -> None:
    """Import Jittor in a child process, which compiles everything that this process will need.

    Under mpirun each process has one, which does not use MPI; Jittor lets one compile at a time.
    """
    code = (
        "from siren.runtime import core, jittor_import, prepare, processes\n"
        f"processes.under_mpirun() and processes.leave_mpirun('cpu')\n"
        f"prepare({device!r}, {verbose!r})\n"
        "import jittor_utils\n"
        "with core.accelerated(jittor_utils):\n"
        "    jittor_import.load_jittor()\n"
        f"jittor_import.Path({str(stamp)!r}).touch()\n"
    )
    _remove_stamps(stamp.parent)  # those of other settings, whose libraries this replaces
    for _ in range(3):  # Jittor exits with status 0 after it has rebuilt a library in use
        announcement = _prepare_compilation(str(stamp.parent))
        shown = announcement if rank() == 0 else ""
        with Compilation(shown, "files of Jittor's core") as compilation:
            child = run_interruptibly(["-c", code], verbose, compilation.read)
        if child.returncode or stamp.exists():
            break
    if child.returncode:
        reason = why_it_failed(child.returncode, child.stdout)
        raise failure(f"Jittor cannot be compiled: {reason}")


def _without_workers(jittor_utils):
    """A context in which Jittor uses no worker processes to check what is compiled.

    When everything is compiled they only cost time. Ctrl-C in a terminal reaches them too, and a
    worker that dies keeps a lock for which the exit then waits forever.
    """

    def run_cmds(commands, cache_path, jittor_path, msg=""):
        for command in commands:
            jittor_utils.do_compile([command, cache_path, jittor_path])

    return replaced(jittor_utils, "run_cmds", run_cmds)


@contextlib.contextmanager
def _as_problem():
    """Turn any error of importing Jittor into a Problem."""
    try:
        yield
    except Problem:
        raise
    except SystemExit as error:  # Jittor has recompiled a library that is already loaded
        raise failure(
            "Jittor has been rebuilt for changed compiler settings; run the same command again."
        ) from error
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and missing_package(error.name):
            raise failure(missing_package(error.name)) from error
        raise failure(f"Jittor cannot be imported: {describe_error(error)}") from error


# ---- the folder of compiled code ----


@contextlib.contextmanager
def locked():
    """Within its context Jittor compiles nothing; its value is whether it was compiling before.

    Jittor holds a lock while it compiles. Raises OSError.
    """
    from jittor_utils import lock

    with open(lock.lock_path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


def remove_damaged(cache_path: str) -> None:
    """Remove compiled files that end too early, as after a full disk or a power failure.

    Jittor uses whatever has a record (``.key``, and ``.md5`` for one file). A library that ends too
    early crashes it or makes it hang, an object file cannot be linked, and a record that ends too
    early makes it rebuild a library that it has loaded. Without its record a file is compiled
    again: an operator when it is needed, all else by a child process, as at the first start.

    While a process is compiling, its files grow, and nothing is removed.
    """
    with contextlib.suppress(OSError), locked() as alone:
        for compiled, record in _recorded(cache_path) if alone else ():
            with contextlib.suppress(OSError):
                if not (_is_complete(compiled) and _is_complete_record(record)):
                    os.unlink(record)
                    os.unlink(compiled)
                    if "jit" not in Path(compiled).relative_to(cache_path).parts:  # an operator
                        _remove_stamps(Path(cache_path))


def _recorded(cache_path: str):
    """Compiled files, each with its record."""
    for folder, _, names in os.walk(cache_path):  # at every start: Path.rglob takes twice as long
        present = set(names)
        for name in names:
            record = "data.md5" if name == "data.o" else f"{name}.key"
            if name.endswith((".so", ".o")) and record in present:
                yield os.path.join(folder, name), os.path.join(folder, record)


def _is_complete(compiled: str) -> bool:
    """Whether a 64-bit ELF file is as long as its header says: the table of sections comes last."""
    with open(compiled, "rb") as file:
        header = file.read(64)
    if len(header) < 64 or header[:4] != b"\x7fELF":
        return False
    start, size, count = struct.unpack_from("<Q10xHH", header, 40)
    return os.path.getsize(compiled) >= start + size * count


def _is_complete_record(record: str) -> bool:
    """Whether a record is whole: lines, which are a command and the hashes of files, or one MD5."""
    content = Path(record).read_bytes()
    return content.endswith(b"\n") if record.endswith(".key") else len(content) == 32
