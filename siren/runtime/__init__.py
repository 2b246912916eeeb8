"""Makes ``import jittor`` (1.3.11) succeed on the machine at hand, and picks the device.

Jittor reads its settings from environment variables while it is imported. By default it downloads
libraries, assumes a working GPU wherever there is an ``nvcc``, and crashes if any of this is
missing. :func:`prepare` sets these variables so that nothing is downloaded and only what works is
used; ``import siren`` calls it. :func:`start` checks the machine, imports Jittor and selects the
device. Variables that the user has set win over ours.
"""

from __future__ import annotations

import contextlib
import os
import sys

from siren.runtime import jit
from siren.runtime.cuda import Cuda, find_cuda, flags_for_capability
from siren.runtime.environment import digest, home_setting, publish, shell_safe, user_environment
from siren.runtime.jittor_import import import_jittor, restore_signals
from siren.runtime.machine import check_arrays, check_machine, describe, toolchain_settings
from siren.runtime.messages import Problem, describe_error, failure, notify
from siren.runtime.patches import CUDA_FOLDER, jittor_folder, patch_jittor, write_headers
from siren.runtime.processes import (
    all_processors,
    check_launcher,
    process_settings,
    rank,
    under_mpirun,
    world_size,
)

__all__ = [
    "Problem",
    "check_launcher",
    "describe",
    "notify",
    "prepare",
    "rank",
    "shell_safe",
    "start",
    "under_mpirun",
    "world_size",
]

_DEFAULTS = {
    "use_mkl": "0",  # oneDNN, cuTT, CUTLASS and NCCL would be downloaded
    "use_cutt": "0",
    "use_cutlass": "0",
    "use_nccl": "0",
    "conv_opt": "1",  # requires only cuBLAS and cuRAND; by default a missing cuDNN is fatal
    "FIX_TORCH_ERROR": "0",  # by default Jittor imports PyTorch if it is installed: seconds
    # By default a thread that waits for the others keeps its processor busy for milliseconds, which
    # on a busy machine the others would need.
    "OMP_WAIT_POLICY": "passive",
    # By default an array goes to the GPU by two copies that wait for all that the GPU has to do.
    "use_cuda_host_allocator": "0",
    "gdb_path": "",  # by default Jittor asks gdb for its version at every start
}


def prepare(device: str = "auto", verbose: bool = False) -> None:
    """Set the environment variables that Jittor reads when it is imported.

    It may be called again, with another device; after Jittor is imported it does nothing. It raises
    nothing: problems of the machine are reported by ``start``.

    Args:
        device: ``"cpu"`` leaves CUDA out; ``"auto"`` and ``"cuda"`` use it where it works.
        verbose: let Jittor log to the console.
    """
    if "jittor" in sys.modules:
        return
    patch_jittor()
    with contextlib.suppress(OSError, Problem):  # ``start`` reports it
        _use_shell_safe_paths()
    user = user_environment()
    cuda = find_cuda() if device != "cpu" else Cuda()
    settings = {**_DEFAULTS, "nvcc_path": cuda.nvcc}  # empty: a CPU build
    if "log_v" not in user:  # a user who sets a log level wants to see the log
        settings["log_silent"] = "0" if verbose else "1"
    if not under_mpirun():
        settings["use_mpi"] = "0"
    settings.update(_or_empty(process_settings, cuda))
    settings.update(_or_empty(toolchain_settings))
    compilation = _or_empty(_compilation_settings, user, cuda)
    # By default Jittor names its cache after the git branch of the folder around the environment,
    # such as a clone with a .venv, and so recompiles everything after every switch of branches. Our
    # own name also separates us from programs that use Jittor with other compiler settings: it ends
    # the process when these change. A GPU's build lies in a folder of a CPU's, and is looked for
    # after it: in one cache, a run on the CPU would end all later runs on a GPU.
    build = "cuda" if user.get("nvcc_path", cuda.nvcc) else ""
    compiled_by = compilation.get("cc_flags", "") + jit.SCRIPT.read_text() + build
    settings["cache_name"] = f"siren-{digest(compiled_by)}"
    settings = {name: value for name, value in settings.items() if name not in user}
    # These override the user's values, but contain them.
    publish({**settings, **compilation, **_or_empty(home_setting)})


def _or_empty(collect, *arguments) -> dict[str, str]:
    """``collect(*arguments)``; {} if it fails: ``start`` reports the problem later."""
    try:
        return collect(*arguments)
    except (OSError, Problem):
        return {}


def _compilation_settings(user: dict[str, str], cuda: Cuda) -> dict[str, str]:
    """The settings that make Jittor compile with the corrected headers."""
    settings = {"cc_flags": f'{user.get("cc_flags", "")} -I"{write_headers()}"'.strip()}
    if cuda.version >= 13000:
        # For cuBLAS and others, Jittor passes the folder of the original helper_cuda.h before these
        # flags. But g++ and nvcc search a folder that is named in CPLUS_INCLUDE_PATH too only after
        # all others.
        folders = [shell_safe(jittor_folder() / CUDA_FOLDER), user.get("CPLUS_INCLUDE_PATH", "")]
        settings["CPLUS_INCLUDE_PATH"] = os.pathsep.join(filter(None, folders))
    return settings


def _use_shell_safe_paths() -> None:
    """Make the paths of Jittor and of the interpreter shell-safe."""
    if os.path.isabs(sys.executable or ""):
        sys.executable = shell_safe(sys.executable, sys.prefix)
    for position, folder in enumerate(sys.path):
        if os.path.isabs(folder) and os.path.isdir(os.path.join(folder, "jittor_utils")):
            sys.path[position] = shell_safe(folder)


def start(device: str = "auto", verbose: bool = False) -> str:
    """Import Jittor and select the device; on the first call on a machine Jittor compiles its core.

    Signals stay with Python, so that Ctrl-C raises KeyboardInterrupt: at once while the core is
    compiled, within about a second while Jittor is imported.

    Args:
        device: ``"cpu"``, ``"cuda"`` or ``"auto"``: the GPU if it works, else the CPU.
        verbose: let Jittor log to the console.

    Returns:
        ``"cpu"`` or ``"cuda"``.

    Raises:
        Problem: something is missing or unsuitable, or ``device="cuda"`` is not available.
        ValueError: there is no such device.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda, not {device!r}")
    if "jittor" not in sys.modules:
        prepare(device, verbose)
        check_machine()
        _explain_missing_cuda(device)
        import_jittor(device, verbose)
    restore_signals()

    import jittor as jt

    jit.accelerate_operators(jt)
    if world_size() > 1:
        with all_processors():  # Jittor's compiling threads keep those that they are started with
            jt.code((1,), "float32", [], cpu_src="out0_p[0] = 0;").sync()
    if rank() == 0:
        check_arrays()
    use_cuda = device != "cpu" and bool(jt.has_cuda)
    if device == "cuda" and not use_cuda:
        raise failure(
            "The device cuda cannot be used: Jittor has been imported without it in this process."
        )
    _switch_device(jt, use_cuda)
    if use_cuda and world_size() > 1 and rank() == 0 and not jt.compile_extern.use_nccl:
        notify(
            "Sums over processes go through the host: there is no NCCL (nccl.h and "
            "libnccl.so), or there are fewer GPUs than processes."
        )
    return "cuda" if use_cuda else "cpu"


def _explain_missing_cuda(device: str) -> None:
    """Report why there is no GPU; raise Problem if ``device`` is "cuda"."""
    reason = find_cuda().reason if device != "cpu" else ""
    if reason and device == "cuda":
        raise failure(f"The device cuda cannot be used: {reason}.")
    if reason and "nvcc_path" not in user_environment() and rank() == 0:
        notify(f"Using the CPU: {reason}.")


def _switch_device(jt, use_cuda: bool) -> None:
    """Have Jittor compute on the GPU or on the CPU."""
    if use_cuda and not (jt.compile_extern.cublas and jt.compile_extern.curand):
        # With a silent log, Jittor continues without them and fails in the first matrix product.
        raise failure(
            "The GPU cannot be used: Jittor cannot build its parts for cuBLAS and cuRAND. The "
            "option verbose shows why; the device cpu does without."
        )
    try:
        jt.flags.use_cuda = int(use_cuda)
    except RuntimeError as error:
        raise failure(f"The GPU cannot be used: {describe_error(error)}.") from error
    if use_cuda:
        jt.flags.nvcc_flags = flags_for_capability(jt.flags.nvcc_flags)
