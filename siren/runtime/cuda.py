"""Finds a CUDA toolkit, a driver and a GPU that work together."""

from __future__ import annotations

import ctypes
import functools
import glob
import os
import platform
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from siren.runtime.environment import identity, read_text, try_once, user_environment
from siren.runtime.messages import describe_error, why_it_failed


@dataclass(frozen=True)
class Cuda:
    """A CUDA toolkit and GPU that work together; if ``nvcc`` is empty, the reason why not.

    On a machine with neither toolkit nor driver the reason is empty too.
    """

    nvcc: str = ""
    version: int = 0  # as in CUDART_VERSION: 12020 is 12.2
    capability: int = 0  # the highest of all GPUs: 90 is sm_90
    reason: str = ""
    gpus: int = 0  # their number
    driver: int = 0  # the version of CUDA that the driver supports
    name: str = "unknown"  # of the first GPU


def find_cuda() -> Cuda:
    """The CUDA installation that Jittor can use in the user's environment."""
    user = user_environment()
    names = ("nvcc_path", "cc_path", "PATH", "CUDA_HOME", "CUDA_PATH", "CUDA_VISIBLE_DEVICES")
    return probe_cuda(*(user.get(name) for name in names))


@functools.cache
def probe_cuda(nvcc_path, cc_path, path, cuda_home, cuda_path, visible_devices) -> Cuda:
    """Find a complete toolkit and a GPU that it supports.

    ``visible_devices`` serves only as a key of the cache: the driver reads that variable itself.
    """
    if nvcc_path == "":
        return Cuda(reason="the variable nvcc_path is set to nothing")
    roots = [cuda_home, cuda_path, "/usr/local/cuda", "/opt/cuda", *_jittor_toolkits()]
    candidates = [shutil.which("nvcc", path=path)]
    candidates += [shutil.which(os.path.join(root, "bin", "nvcc")) for root in roots if root]
    candidates = [nvcc for nvcc in ([nvcc_path] if nvcc_path else candidates) if nvcc]
    driver = load_driver()
    if not candidates:
        return Cuda(reason="there is an NVIDIA driver but no CUDA toolkit" if driver else "")
    if not driver:
        return Cuda(reason=f"there is a CUDA compiler ({candidates[0]}) but no NVIDIA driver")

    missing = {nvcc: _missing_from_toolkit(nvcc) for nvcc in candidates}
    complete = [nvcc for nvcc in candidates if not missing[nvcc]]
    if not complete:
        return Cuda(reason=f"the CUDA toolkit of {candidates[0]} lacks {missing[candidates[0]]}")
    nvcc = complete[0]
    version = _toolkit_version(nvcc)

    status, count, driver_version = driver.cuInit(0), ctypes.c_int(), ctypes.c_int()
    if status or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return Cuda(reason=f"the NVIDIA driver offers no GPU (its status is {status})")
    driver.cuDriverGetVersion(ctypes.byref(driver_version))
    if driver_version.value // 1000 < version // 1000:
        return Cuda(
            reason=f"the NVIDIA driver supports CUDA {_dotted(driver_version.value)} at most, "
            f"older than the toolkit's {_dotted(version)}"
        )
    capabilities = [_capability(driver, index) for index in range(count.value)]
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    driver.cuDeviceGet(ctypes.byref(device), 0)
    driver.cuDeviceGetName(name, len(name), device)
    if version >= 13000 and min(capabilities) < 75:
        return Cuda(reason=f"CUDA {_dotted(version)} no longer supports a GPU of this machine")
    programs = nvcc, cc_path or "g++"
    problem = try_once("nvcc", list(map(identity, programs)), lambda: find_nvcc_problem(*programs))
    if problem:
        return Cuda(reason=problem)
    return Cuda(
        nvcc,
        version,
        max(capabilities),
        gpus=count.value,
        driver=driver_version.value,
        name=name.value.decode(errors="replace"),
    )


def _jittor_toolkits() -> list[str]:
    """Folders of the toolkits that ``python -m jittor_utils.install_cuda`` has installed."""
    home = os.environ.get("JITTOR_HOME") or os.path.expanduser("~")
    folder = os.path.join(glob.escape(home), ".cache", "jittor", "jtcuda")
    return sorted(glob.glob(os.path.join(folder, "cuda*_linux")))  # Path.glob may raise


def _missing_from_toolkit(nvcc: str) -> str:
    """The first file that Jittor needs of the toolkit of ``nvcc`` and cannot find; "" if none."""
    root, libraries = toolkit_folders(nvcc)
    target = root / "targets" / f"{platform.machine()}-linux"
    if not os.path.exists(libraries / "libcudart.so"):
        return f"{libraries / 'libcudart.so'}"
    if not _toolkit_version(nvcc):
        return f"{root / 'include' / 'cuda_runtime_api.h'}"
    headers = [root / "include", target / "include", Path("/usr/include")]
    system = Path(f"/usr/lib/{platform.machine()}-linux-gnu")
    folders = [root / "bin", libraries, target / "lib", system, Path("/usr/lib")]
    for name in ("cublas", "curand"):
        if not any(os.path.isfile(folder / f"{name}.h") for folder in headers):
            return f"{name}.h"
        if not any(os.path.isfile(folder / f"lib{name}.so") for folder in folders):
            return f"lib{name}.so"
    return ""


def toolkit_folders(nvcc: str) -> tuple[Path, Path]:
    """(root, library folder), as Jittor derives them from the path of nvcc."""
    root = Path(os.path.realpath(nvcc)).parent.parent
    packaged = nvcc == "/usr/bin/nvcc"  # of the distribution; Jittor knows this one folder for it
    return root, Path("/usr/lib/x86_64-linux-gnu") if packaged else root / "lib64"


def _toolkit_version(nvcc: str) -> int:
    """CUDART_VERSION from the toolkit's header (13000 is 13.0), or 0."""
    for folder in (toolkit_folders(nvcc)[0] / "include", Path("/usr/include")):
        header = read_text(folder / "cuda_runtime_api.h")
        match = re.search(r"#define\s+CUDART_VERSION\s+(\d+)", header)
        if match:
            return int(match[1])
    return 0


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def load_driver() -> ctypes.CDLL | None:
    """The NVIDIA driver's library, or None."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None


def _capability(driver: ctypes.CDLL, index: int) -> int:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceGetAttribute(ctypes.byref(major), 75, device)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)
    return major.value * 10 + minor.value


def flags_for_capability(flags: str) -> str:
    """Jittor's nvcc ``flags``, which support GPUs up to sm_90, adapted to this machine's GPU."""
    cuda = find_cuda()
    if cuda.capability > 90:  # newer GPUs need PTX beside the machine code
        return flags.replace("-code=sm_90 ", "-code=sm_90,compute_90 ")
    if "=compute_90 " in flags and cuda.version >= 12000:  # sm_90a: Hopper's own instructions
        return flags.replace("=compute_90 ", "=compute_90a ").replace(
            "-code=sm_90 ", "-code=sm_90a -DSIREN_HOPPER "
        )
    return flags


def find_nvcc_problem(nvcc: str, compiler: str) -> str:
    """Try nvcc with the compiler; returns why it fails, or "".

    So a g++ that is too new for nvcc is found in seconds, not after minutes of compiling.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "trial.cu")
        source.write_text("#include <cuda_runtime.h>\n#include <vector>\n", encoding="utf8")
        command = [nvcc, "-c", "-std=c++14", "-ccbin", compiler, str(source)]
        try:
            trial = subprocess.run(
                [*command, "-o", str(source.with_suffix(".o"))],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=300,
            )
        except (OSError, subprocess.SubprocessError) as error:
            reason = describe_error(error)
        else:
            reason = trial.returncode and why_it_failed(trial.returncode, trial.stdout)
    return f"{nvcc} does not work with the compiler {compiler} ({reason})" if reason else ""
