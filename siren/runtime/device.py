"""Checks the machine, imports Jittor and selects the device."""

from __future__ import annotations

import sys

from siren.runtime import jit
from siren.runtime.cuda import find_cuda, flags_for_capability
from siren.runtime.environment import check_variables, user_environment
from siren.runtime.handlers import restore_signals
from siren.runtime.jittor_cache import check_cache
from siren.runtime.jittor_import import import_jittor
from siren.runtime.numpy_trial import check_arrays
from siren.runtime.paths import private_folder
from siren.runtime.problem import RuntimeProblem, describe_error
from siren.runtime.processes import all_processors, check_processes, notify_once, rank, world_size
from siren.runtime.settings import prepare
from siren.runtime.toolchain import check_compiler, check_numpy, check_packages, check_python


def start(device: str = "auto", verbose: bool = False) -> str:
    """Import Jittor and select the device; on the first call on a machine Jittor compiles its core.

    Signals stay with Python, so that Ctrl-C raises KeyboardInterrupt: at once while the core is
    compiled, within about a second while Jittor is imported.

    Args:
        device: ``"cpu"``, ``"cuda"`` or ``"auto"``: the GPU if it works, else the CPU.
        verbose: let Jittor log to the console, and print the traceback of a failed import.

    Returns:
        ``"cpu"`` or ``"cuda"``.

    Raises:
        RuntimeProblem: something is missing or unsuitable, or ``device="cuda"`` is not available.
        ValueError: there is no such device.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda, not {device!r}")
    if "jittor" not in sys.modules:
        prepare(device, verbose)
        _check_machine()
        _explain_missing_cuda(device)
        import_jittor(device, verbose)
    restore_signals()

    import jittor as jt

    jit.accelerate(jt)
    if world_size() > 1:
        with all_processors():
            jit.start_threads(jt)
    if rank() == 0:
        check_arrays()
    use_cuda = device != "cpu" and bool(jt.has_cuda)
    if device == "cuda" and not use_cuda:
        raise RuntimeProblem(
            "The device cuda cannot be used: Jittor has been imported without it in this process."
        )
    _switch_device(jt, use_cuda)
    if use_cuda and world_size() > 1 and not jt.compile_extern.use_nccl:
        notify_once(
            "Sums over processes go through the host: there is no NCCL (nccl.h and "
            "libnccl.so), or there are fewer GPUs than processes."
        )
    return "cuda" if use_cuda else "cpu"


def _check_machine() -> None:
    """Raise RuntimeProblem for the first thing that is missing or unsuitable."""
    check_python()
    check_variables()
    check_processes()
    check_packages()
    check_numpy()
    check_compiler()
    check_cache()
    private_folder()


def _explain_missing_cuda(device: str) -> None:
    """Report why there is no GPU; raise RuntimeProblem if ``device`` is "cuda"."""
    reason = find_cuda().reason if device != "cpu" else ""
    if reason and device == "cuda":
        raise RuntimeProblem(f"The device cuda cannot be used: {reason}.")
    if reason and "nvcc_path" not in user_environment():
        notify_once(f"Using the CPU: {reason}.")


def _switch_device(jt, use_cuda: bool) -> None:
    """Have Jittor compute on the GPU or on the CPU."""
    if use_cuda and not (jt.compile_extern.cublas and jt.compile_extern.curand):
        # With a silent log, Jittor continues without them and fails in the first matrix product.
        raise RuntimeProblem(
            "The GPU cannot be used: Jittor cannot build its parts for cuBLAS and cuRAND "
            "(--verbose shows why, --device cpu does without)."
        )
    try:
        jt.flags.use_cuda = int(use_cuda)
    except RuntimeError as error:
        raise RuntimeProblem(f"The GPU cannot be used: {describe_error(error)}.") from error
    if use_cuda:
        jt.flags.nvcc_flags = flags_for_capability(jt.flags.nvcc_flags)
