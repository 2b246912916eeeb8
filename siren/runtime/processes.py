"""Processes: those that mpirun has started, and a child that Ctrl-C ends at once.

Rank and world size, threads, GPUs and NCCL come from the variables of Open MPI, without Jittor;
``siren.distributed`` needs Jittor.

Jittor does not return to the interpreter while it compiles, so that in its process a signal waits
until the compiler is done. While a child compiles, this process waits in Python and reacts at once.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from siren.runtime import environment
from siren.runtime.cuda import Cuda, find_cuda, toolkit_folders
from siren.runtime.messages import Problem, failure

_PREFIX = "OMPI_COMM_WORLD_"  # of the variables that Open MPI sets

# What others that start several processes set in each, and the greatest value in a process that is
# alone. In a job of Slurm, the shell of salloc and the script of sbatch have SLURM_NTASKS, but not
# SLURM_STEP_NUM_TASKS, and their SLURM_PROCID is 0 or not set.
_OF_OTHERS = [
    ("srun", "SLURM_STEP_NUM_TASKS", 1),
    ("srun", "SLURM_PROCID", 0),
    ("the mpirun of MVAPICH", "MV2_COMM_WORLD_SIZE", 1),
    ("the mpirun of MVAPICH", "MV2_COMM_WORLD_RANK", 0),
    ("the mpirun of MPICH or Intel MPI", "PMI_SIZE", 1),
    ("the mpirun of MPICH or Intel MPI", "PMI_RANK", 0),
    ("a program that uses PMIx", "PMIX_RANK", 0),
]


def under_mpirun() -> bool:
    """Whether mpirun has started this process."""
    return f"{_PREFIX}SIZE" in environment.user_environment()


def world_size() -> int:
    """The number of processes; 1 without mpirun. Raises Problem."""
    return _number("SIZE", 1, 1, 999_999)


def rank() -> int:
    """The index of this process, from 0; 0 without mpirun. Raises Problem."""
    return _number("RANK", 0, 0, world_size() - 1)


def local_size() -> int:
    """The number of processes on this machine. Raises Problem."""
    return _number("LOCAL_SIZE", 1, 1, world_size())


def local_rank() -> int:
    """The index of this process among those on this machine, from 0. Raises Problem."""
    return _number("LOCAL_RANK", 0, 0, local_size() - 1)


def _number(name: str, alone: int, low: int, high: int) -> int:
    """The value of a variable of Open MPI; ``alone`` if it is not set."""
    text = environment.user_environment().get(_PREFIX + name, str(alone))
    number = int(text) if re.fullmatch(r"[0-9]{1,6}", text) else -1
    if low <= number <= high:
        return number
    raise Problem(
        f"The variable {_PREFIX}{name} is {text!r}, which mpirun would not set; start the program "
        "with mpirun, or unset all variables that begin with OMPI_."
    )


def check_launcher() -> None:
    """Raise Problem if this is one of several processes that Open MPI has not started.

    They could not work together, and each would train alone and write the same files.
    """
    if under_mpirun():
        return
    user = environment.user_environment()
    signs = [
        (who, name)
        for who, name, alone in _OF_OTHERS
        if re.fullmatch(r"[0-9]{1,6}", user.get(name, "")) and int(user[name]) > alone
    ]
    if "SLURM_PTY_PORT" in user and user.get("SLURM_PROCID") == "0":
        # The first process of srun --pty: a shell, most likely, and the others have no terminal.
        signs = [(who, name) for who, name in signs if who != "srun"]
    if signs:
        values = " and ".join(f"{name} is {user[name]}" for _, name in signs)
        raise Problem(
            f"This is one of several processes of {signs[0][0]} ({values}), and only those that "
            "Open MPI's mpirun has started can train together; use that one (mpirun -np 2 python "
            f"main.py ...), or unset {' and '.join(name for _, name in signs)} to train alone."
        )


def check_processes() -> None:
    """Raise Problem if this process cannot work together with the others."""
    check_launcher()
    if not under_mpirun():
        return
    rank(), local_rank()  # raise Problem if their variables are invalid
    user = environment.user_environment()
    if user.get("use_mpi", "1") != "1" or (world_size() > 1 and f"{_PREFIX}RANK" not in user):
        raise Problem(
            f"mpirun sets {_PREFIX}SIZE, which is {world_size()}, but {_PREFIX}RANK is not set or "
            f"use_mpi is 0; start the program with mpirun, or unset these variables."
        )
    if not shutil.which(user.get("mpicc_path") or "mpicc"):
        raise failure(
            "mpicc is missing, with which Jittor compiles its part for several processes; install "
            "the packages openmpi-bin and libopenmpi-dev (Debian, Ubuntu), or do without mpirun."
        )


def process_settings(cuda: Cuda) -> dict[str, str]:
    """Jittor's variables for one of several processes: its threads, its GPU, and NCCL.

    With a single process there are none. NCCL needs a GPU for each process; without it, sums go
    through the host. Jittor would download NCCL if these variables did not name one.
    """
    if world_size() == 1:
        return {}
    processors = len(os.sched_getaffinity(0)), (os.cpu_count() or 1) // local_size()
    settings = {"OMP_NUM_THREADS": str(max(1, min(processors)))}
    if not cuda.nvcc:
        return settings
    if cuda.gpus > 1:
        settings["device_id"] = str(local_rank() % cuda.gpus)
    if local_size() <= cuda.gpus:
        folders = find_nccl(cuda.nvcc)
        if folders:
            settings["use_nccl"] = "1"
            settings["nccl_include_path"], settings["nccl_lib_path"] = folders
    return settings


@contextlib.contextmanager
def all_processors():
    """Let this thread, and what it starts meanwhile, use all processors, to compile.

    mpirun may have bound the process to one of them.
    """
    bound = os.sched_getaffinity(0)
    _unbind()
    try:
        yield
    finally:
        os.sched_setaffinity(0, bound)


def _unbind() -> None:
    """Let this thread, and what it starts from now on, run on all processors."""
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))


def leave_mpirun(device: str) -> list[dict[str, str]]:
    """Make this process look as if mpirun had not started it, and so those that it will start.

    They never communicate through MPI, and Jittor does not begin with it. They keep their number of
    threads, but may run, and compile, on all processors.

    Returns variables for as many child processes as mpirun has started. With them each sees only
    its own GPU. If there is none, the first child alone still looks for one, and says why.
    """
    cuda = find_cuda() if device != "cpu" else Cuda()
    user = environment.user_environment()
    others = {name for _, name, _ in _OF_OTHERS}  # mpirun may have used srun on other machines
    alone = {
        name: value
        for name, value in user.items()
        if not name.startswith(_PREFIX) and name not in others
    }
    children: list[dict[str, str]] = [{} for _ in range(world_size())]
    if cuda.gpus > 1 and "device_id" not in user:
        visible = user.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else [str(gpu) for gpu in range(cuda.gpus)]
        for number, variables in enumerate(children):
            variables["CUDA_VISIBLE_DEVICES"] = names[number % cuda.gpus]
    if device == "auto" and not cuda.gpus and "nvcc_path" not in user:
        for variables in children[1:]:
            variables["nvcc_path"] = ""
    alone = {**process_settings(Cuda()), **alone}
    os.environ.clear()
    os.environ.update(alone)
    _unbind()
    return children


def find_nccl(nvcc: str) -> tuple[str, str] | None:
    """Folders of (nccl.h, libnccl.so): of the toolkit, the system, or a Python package."""
    root, libraries = toolkit_folders(nvcc)
    places = [
        (root / "include", libraries),
        (Path("/usr/include"), Path(f"/usr/lib/{platform.machine()}-linux-gnu")),
        (Path("/usr/include"), Path("/usr/lib64")),
    ]
    with contextlib.suppress(ImportError):  # there is no package called nvidia
        package = importlib.util.find_spec("nvidia.nccl")
        for folder in (package and package.submodule_search_locations) or []:
            places.append((Path(folder, "include"), Path(folder, "lib")))
    for include, folder in places:
        if not os.path.isfile(include / "nccl.h"):
            continue
        if os.path.isfile(folder / "libnccl.so"):
            return str(include), str(folder)
        if os.path.isfile(folder / "libnccl.so.2"):  # Jittor needs it under the name libnccl.so
            link_folder = environment.private_folder() / f"nccl-{environment.digest(str(folder))}"
            environment.create_folder(link_folder)
            environment.write_link(link_folder / "libnccl.so", str(folder / "libnccl.so.2"))
            return str(include), str(link_folder)
    return None


# ---- a child process ----

# What the child runs first. It gets this process's sys.path; its own would start with the current
# folder.
_PRELUDE = """\
import sys
sys.path[:] = {path!r}
import ctypes, os, runpy, signal
os.environ["siren_progress"] = "1"  # this process's output is read (patches.py)
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: end with the parent
if os.getppid() != {parent}:
    sys.exit(1)
kind = sys.argv[1] if sys.argv[1] in ("-c", "-m") else ""
program, *sys.argv[1:] = sys.argv[2 if kind else 1 :]
if kind == "-m":
    runpy.run_module(program, run_name="__main__", alter_sys=True)
elif kind == "-c":
    exec(program, {{"__name__": "__main__"}})
else:
    runpy.run_path(program, run_name="__main__")
"""


def python_command(arguments: list[str]) -> list[str]:
    """The command of a child with this process's ``sys.path``, which the system ends with it.

    ``arguments`` are as those of ``run_interruptibly``.
    """
    prelude = _PRELUDE.format(path=[os.path.abspath(each) for each in sys.path], parent=os.getpid())
    return [sys.executable, "-c", prelude, *arguments]


def run_interruptibly(
    arguments: list[str], verbose: bool = False, read: Callable[[str], None] | None = None
) -> subprocess.CompletedProcess:
    """Run Python in a child process, with this one's environment and ``sys.path``.

    An exception in this process, such as KeyboardInterrupt, kills the child and its children.

    Args:
        arguments: ``["-c", code, ...]``, ``["-m", module, ...]`` or ``[file, ...]``, as for the
            interpreter.
        verbose: copy the child's output to stderr as it comes.
        read: called with every line of the child's output, as it comes.

    Returns:
        The exit status as ``returncode``, stdout and stderr together as ``stdout``.
    """
    command = python_command(arguments)
    lines = []
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # and so a process group that a terminal's Ctrl-C does not reach
    )
    try:
        for line in process.stdout:
            lines.append(line)
            if read is not None:
                read(line)
            if verbose:
                sys.stderr.write(line)
        process.wait()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    finally:
        process.stdout.close()
    return subprocess.CompletedProcess(command, process.returncode, "".join(lines))
