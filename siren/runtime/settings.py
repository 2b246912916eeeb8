"""Sets the variables that Jittor reads while it is imported, so that it uses only what works."""

from __future__ import annotations

import os
import sys

from siren.runtime.cuda import Cuda, find_cuda
from siren.runtime.environment import publish, user_environment
from siren.runtime.jittor_cache import home_setting
from siren.runtime.paths import shell_safe
from siren.runtime.problem import RuntimeProblem
from siren.runtime.processes import process_settings, under_mpirun
from siren.runtime.toolchain import (
    compiler_setting,
    original_header,
    python_config_setting,
    write_corrected_header,
)

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
    # By default Jittor names its cache after the git branch of the folder around the environment,
    # such as a clone with a .venv, and so recompiles everything after every switch of branches. Our
    # own name also separates us from programs that use Jittor with other compiler settings.
    "cache_name": "siren",
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
    _or_empty(_use_shell_safe_paths)
    user = user_environment()
    cuda = find_cuda() if device != "cpu" else Cuda()
    settings = {**_DEFAULTS, "nvcc_path": cuda.nvcc}  # empty: a CPU build
    if "log_v" not in user:  # a user who sets a log level wants to see the log
        settings["log_silent"] = "0" if verbose else "1"
    if not under_mpirun():
        settings["use_mpi"] = "0"
    settings.update(_or_empty(process_settings, cuda))
    settings.update(_or_empty(compiler_setting))
    settings.update(_or_empty(python_config_setting))
    cuda_13 = _or_empty(_cuda_13_settings, user, cuda)
    if cuda_13:
        # Jittor ends the process when compiler flags change, so these get a cache of their own.
        settings["cache_name"] = "siren_cuda13"
    settings = {name: value for name, value in settings.items() if name not in user}
    # These override the user's values, but contain them.
    publish({**settings, **cuda_13, **_or_empty(home_setting)})


def _or_empty(collect, *arguments) -> dict[str, str]:
    """``collect(*arguments)``; {} if it fails: ``start`` reports the problem later."""
    try:
        return collect(*arguments)
    except (OSError, RuntimeProblem):
        return {}


def _cuda_13_settings(user: dict[str, str], cuda: Cuda) -> dict[str, str]:
    """The settings that make Jittor compile with a header that CUDA 13 accepts."""
    if cuda.version < 13000:
        return {}
    include = f'-I"{write_corrected_header().parent}"'
    # For cuBLAS and others, Jittor passes the folder of the original header before these flags. But
    # g++ and nvcc search a folder that is named in CPLUS_INCLUDE_PATH too only after all others.
    folders = [shell_safe(original_header().parent), user.get("CPLUS_INCLUDE_PATH", "")]
    return {
        "cc_flags": f"{user.get('cc_flags', '')} {include}".strip(),
        "CPLUS_INCLUDE_PATH": os.pathsep.join(filter(None, folders)),
    }


def _use_shell_safe_paths() -> dict[str, str]:
    """Make the paths of Jittor and of the interpreter shell-safe; returns no settings."""
    if os.path.isabs(sys.executable or ""):
        sys.executable = shell_safe(sys.executable, sys.prefix)
    for position, folder in enumerate(sys.path):
        if os.path.isabs(folder) and os.path.isdir(os.path.join(folder, "jittor_utils")):
            sys.path[position] = shell_safe(folder)
    return {}
