"""Sets the variables that Jittor reads while it is imported, so that it uses only what works."""

from __future__ import annotations

import os
import sys

from siren.runtime.cuda import Cuda, find_cuda
from siren.runtime.environment import publish, user_environment
from siren.runtime.headers import CUDA_FOLDER, jittor_folder, write_headers
from siren.runtime.jit import SCRIPT
from siren.runtime.jittor_cache import home_setting
from siren.runtime.patches import patch_jittor
from siren.runtime.paths import digest, shell_safe
from siren.runtime.problem import RuntimeProblem
from siren.runtime.processes import process_settings, under_mpirun
from siren.runtime.toolchain import compiler_setting, python_config_setting

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
    compilation = _or_empty(_compiler_settings, user, cuda)
    # By default Jittor names its cache after the git branch of the folder around the environment,
    # such as a clone with a .venv, and so recompiles everything after every switch of branches. Our
    # own name also separates us from programs that use Jittor with other compiler settings: it ends
    # the process when these change.
    compiled_by = compilation.get("cc_flags", "") + SCRIPT.read_text()
    settings["cache_name"] = f"siren-{digest(compiled_by)}"
    settings = {name: value for name, value in settings.items() if name not in user}
    # These override the user's values, but contain them.
    publish({**settings, **compilation, **_or_empty(home_setting)})


def _or_empty(collect, *arguments) -> dict[str, str]:
    """``collect(*arguments)``; {} if it fails: ``start`` reports the problem later."""
    try:
        return collect(*arguments)
    except (OSError, RuntimeProblem):
        return {}


def _compiler_settings(user: dict[str, str], cuda: Cuda) -> dict[str, str]:
    """The settings that make Jittor compile with the corrected headers."""
    settings = {"cc_flags": f'{user.get("cc_flags", "")} -I"{write_headers()}"'.strip()}
    if cuda.version >= 13000:
        # For cuBLAS and others, Jittor passes the folder of the original helper_cuda.h before these
        # flags. But g++ and nvcc search a folder that is named in CPLUS_INCLUDE_PATH too only after
        # all others.
        folders = [shell_safe(jittor_folder() / CUDA_FOLDER), user.get("CPLUS_INCLUDE_PATH", "")]
        settings["CPLUS_INCLUDE_PATH"] = os.pathsep.join(filter(None, folders))
    return settings


def _use_shell_safe_paths() -> dict[str, str]:
    """Make the paths of Jittor and of the interpreter shell-safe; returns no settings."""
    if os.path.isabs(sys.executable or ""):
        sys.executable = shell_safe(sys.executable, sys.prefix)
    for position, folder in enumerate(sys.path):
        if os.path.isabs(folder) and os.path.isdir(os.path.join(folder, "jittor_utils")):
            sys.path[position] = shell_safe(folder)
    return {}
