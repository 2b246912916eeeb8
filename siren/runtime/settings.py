"""Sets the variables that Jittor reads while it is imported, so that only what works is used."""

from __future__ import annotations

import os
import sys

from siren.runtime.cuda import Cuda, find_cuda
from siren.runtime.environment import publish, user_environment
from siren.runtime.jittor_cache import home_setting
from siren.runtime.paths import shell_safe
from siren.runtime.problem import RuntimeProblem
from siren.runtime.processes import settings_of_a_process, under_mpirun
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
    "conv_opt": "1",  # asks for cuBLAS and cuRAND only; a missing cuDNN would be fatal
    "FIX_TORCH_ERROR": "0",  # would import PyTorch wherever it is installed, which takes seconds
    "gdb_path": "",  # would ask gdb for its version at every start
    # Jittor names its cache after the git branch that surrounds the environment (a .venv inside a
    # clone has one) and so would compile everything anew after every switch of branches. A name
    # of our own also keeps apart programs that use Jittor with other compiler settings.
    "cache_name": "siren",
}


def prepare(device: str = "auto", verbose: bool = False) -> None:
    """Set the environment variables that Jittor reads when it is imported.

    May be called again, with another device, until Jittor is imported; then it does nothing. It
    raises nothing: what is wrong with the machine, ``start`` says.

    Args:
        device: ``"cpu"`` leaves CUDA out; ``"auto"`` and ``"cuda"`` use it where it works.
        verbose: let Jittor log to the console.
    """
    if "jittor" in sys.modules:
        return
    _tried(_take_plain_paths)
    user = user_environment()
    cuda = find_cuda() if device != "cpu" else Cuda()
    settings = {**_DEFAULTS, "nvcc_path": cuda.nvcc}  # empty: a CPU build
    if "log_v" not in user:  # who asks for a level of detail wants to see it
        settings["log_silent"] = "0" if verbose else "1"
    if not under_mpirun():
        settings["use_mpi"] = "0"
    settings.update(_tried(settings_of_a_process, cuda))
    settings.update(_tried(compiler_setting))
    settings.update(_tried(python_config_setting))
    cuda_13 = _tried(_cuda_13_settings, user, cuda)
    if cuda_13:
        # Jittor ends the process when compiler flags change, so these get their own cache.
        settings["cache_name"] = "siren_cuda13"
    settings = {name: value for name, value in settings.items() if name not in user}
    # These contain what the user has set, and mean the same.
    publish({**settings, **cuda_13, **_tried(home_setting)})


def _tried(collect, *arguments) -> dict[str, str]:
    """What ``collect`` returns; nothing where the machine does not let it, as start() will say."""
    try:
        return collect(*arguments)
    except (OSError, RuntimeProblem):
        return {}


def _cuda_13_settings(user: dict[str, str], cuda: Cuda) -> dict[str, str]:
    """What makes Jittor compile with a header that CUDA 13 accepts."""
    if cuda.version < 13000:
        return {}
    include = f'-I"{write_corrected_header().parent}"'
    # Jittor names the original's folder before these flags where it compiles its parts for
    # cuBLAS and others. g++ and nvcc search a folder that is in this variable after all others.
    folders = [shell_safe(original_header().parent), user.get("CPLUS_INCLUDE_PATH", "")]
    return {
        "cc_flags": f"{user.get('cc_flags', '')} {include}".strip(),
        "CPLUS_INCLUDE_PATH": os.pathsep.join(filter(None, folders)),
    }


def _take_plain_paths() -> dict[str, str]:
    """Let Jittor find itself and the interpreter by names that it can hand to a shell."""
    if os.path.isabs(sys.executable or ""):
        sys.executable = shell_safe(sys.executable, sys.prefix)
    for position, folder in enumerate(sys.path):
        if os.path.isabs(folder) and os.path.isdir(os.path.join(folder, "jittor_utils")):
            sys.path[position] = shell_safe(folder)
    return {}
