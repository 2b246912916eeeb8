"""The machine: whether it has what Jittor needs, and how metrics.json describes it.

Jittor needs an interpreter, packages, a C++ compiler, and a NumPy whose arrays it can read.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
import importlib.util
import os
import platform
import re
import shlex
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

from siren.runtime import environment
from siren.runtime.cuda import find_cuda
from siren.runtime.install import JITTOR, PACKAGES, missing_package
from siren.runtime.messages import Problem, describe_error, failure
from siren.runtime.processes import check_processes

COMPILER = "g++"
# Jittor compiles something for a single number of each of these types, and so not for the others.
COMPUTED = ("int32", "int64", "float32", "float64")
DTYPES = ("bool", "int8", "uint8", "int16", "uint16", "uint32", "float16", *COMPUTED)
_TRIED = '"numpy<2.6"'  # what this program has been tried with


def check_machine() -> None:
    """Raise Problem for the first thing that is missing or unsuitable."""
    _check_python()
    check_processes()
    _check_packages()
    _check_compiler()
    _check_cache()
    environment.private_folder()


def _check_python() -> None:
    version = ".".join(map(str, sys.version_info[:2]))
    if not (3, 9) <= sys.version_info[:2] <= (3, 14):
        raise failure(f"Jittor 1.3.11 needs Python 3.9 to 3.14, and this is Python {version}.")
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise failure("Jittor 1.3.11 needs the usual build of Python, not the free-threaded one.")


def _check_packages() -> None:
    for module in (*PACKAGES, "jittor"):
        if importlib.util.find_spec(module) is None:
            raise failure(missing_package(module))
    try:
        import numpy as np
    except ImportError as error:
        raise failure(f"NumPy cannot be imported: {describe_error(error)}") from error
    for kind in (np.float32, np.float64):
        np.finfo(kind)  # computed and cached now, before Jittor's kernels disable subnormals


def _check_compiler() -> None:
    user = environment.user_environment()
    compiler = user.get("cc_path") or COMPILER
    if not shutil.which(compiler):
        raise failure(
            f"The C++ compiler {compiler} is missing, with which Jittor compiles its kernels; "
            "install the package g++ (Debian, Ubuntu) or gcc-c++ (Fedora), or set cc_path to one."
        )
    if "python_config_path" not in user and not any(
        Path(folder, "Python.h").exists() for folder in _python_include_folders()
    ):
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise failure(
            f"The C headers of Python {version} (Python.h) are missing; "
            f"install the package python{version}-dev (Debian, Ubuntu) or python3-devel (Fedora)."
        )


def _check_cache() -> None:
    """Raise Problem if Jittor cannot write its cache."""
    user = environment.user_environment()
    name = "JITTOR_HOME" if "JITTOR_HOME" in user else "HOME"
    folder = user.get("JITTOR_HOME", environment.home())
    if name == "JITTOR_HOME" and not environment.is_shell_safe(folder):
        raise Problem(
            f"The variable {name} is {folder!r}, but Jittor cannot work in a folder of such a "
            "name; choose one of letters, digits, dots, hyphens and underscores."
        )
    cache = os.path.join(folder, ".cache", "jittor")
    try:
        environment.create_folder(cache)
        with tempfile.TemporaryFile(dir=cache) as file:
            file.write(b"0")
    except OSError as error:
        raise Problem(
            f"Jittor keeps what it compiles in {cache}, which cannot be written "
            f"({error.strerror or error}); set the variable {name} to a folder that can."
        ) from error


def _python_include_folders() -> list[str]:
    return sorted({sysconfig.get_path("include"), sysconfig.get_path("platinclude")})


def toolchain_settings() -> dict[str, str]:
    """The variables cc_path, if a shell would split the compiler's path, and python_config_path.

    The latter is a script that describes exactly this interpreter. By default Jittor looks for
    ``python3.X-config`` beside the interpreter and in /usr. In a virtual environment of a pyenv or
    conda Python it finds none, or that of another Python.
    """
    folders = map(environment.shell_safe, _python_include_folders())
    includes = " ".join(f'-I"{folder}"' for folder in folders)
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    script = (
        "#!/bin/sh\n"
        "# Written by siren/runtime: the two answers that Jittor wants of python3-config.\n"
        'case "$1" in\n'
        f"--includes) echo {shlex.quote(includes)} ;;\n"
        f"--extension-suffix) echo {shlex.quote(suffix)} ;;\n"
        "*) exit 1 ;;\n"
        "esac\n"
    )
    path = environment.private_folder() / f"python-config-{environment.digest(script)}"
    environment.write_file(path, script, mode=0o700)
    compiler = shutil.which(COMPILER) or ""
    safe = environment.shell_safe(compiler, os.path.dirname(compiler)) if compiler else ""
    return {"python_config_path": str(path), **({"cc_path": safe} if safe != compiler else {})}


def check_arrays() -> None:
    """Try whether arrays come back from Jittor, once for each of its compilations and each NumPy.

    Jittor reads NumPy's own structures in memory. Where these differ from what it was written for,
    values are garbage, and nothing else says so. Raises Problem.
    """
    import jittor as jt
    import numpy as np

    facts = [np.__version__, environment.identity(sys.modules["jittor_core"].__file__)]
    problem = environment.try_once("arrays", facts, find_array_problem)
    if problem:
        raise failure(
            f"Jittor {jt.__version__} misreads the arrays of NumPy {np.__version__} ({problem}); "
            f"install versions that fit each other: pip install --no-deps {JITTOR} {_TRIED}"
        )


def find_array_problem() -> str:
    """The first array that does not come back as it is, in words; "" if all do.

    64-bit arrays come back as 32-bit ones, as Jittor wants it.
    """
    import jittor as jt
    import numpy as np

    for dtype in DTYPES:
        block = (np.arange(24) % (2 if dtype == "bool" else 100)).astype(dtype).reshape(2, 3, 4)
        large = np.resize(block, 2**18)
        arrays = [block, block.T, block[:, ::2], block[0, 1, 2:], block[:0], large]
        if dtype in COMPUTED:
            arrays += [block[1, 0, :1], np.array(3, dtype), block[0, 0, 3]]
        for array in arrays:
            var = jt.array(array)
            expected = array.reshape(array.shape or 1)  # Jittor has no arrays without axes
            for back in (var.numpy(), np.array(var.data)):
                if back.shape != expected.shape or not np.array_equal(back, expected):
                    return f"{dtype} of shape {array.shape} comes back as {back.ravel()[:3]}"
    index = jt.arange(5)[np.int64(3)].item()
    if index != 3:
        return f"the element of index 3 is that of index {index}"
    return ""


def describe() -> dict[str, str | int]:
    """Versions, device and number of CPU threads, by which a result was computed, for JSON.

    Call it after :func:`siren.runtime.start`.
    """
    import jittor as jt
    import numpy as np

    device = "cuda" if jt.flags.use_cuda else "cpu"
    cpu = cpu_fact("model name") or platform.processor() or platform.machine()
    try:
        threads = ctypes.CDLL("libgomp.so.1").omp_get_max_threads()  # of Jittor's kernels
    except OSError:
        threads = os.cpu_count() or 1
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "jittor": jt.__version__,
        "device": device,
        "device_name": find_cuda().name if device == "cuda" else cpu,
        "threads": threads,
    }


@functools.cache
def allow_amx() -> bool:
    """Ask the kernel for AMX, which multiplies matrices; whether this process may use it now.

    Linux lets a process use it only when it has asked (``ARCH_REQ_XCOMP_PERM`` of arch_prctl).
    """
    if not {"amx_tile", "amx_bf16", "avx512bw"} <= set(cpu_fact("flags").split()):
        return False
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18
    return ctypes.CDLL(None).syscall(arch_prctl, request_permission, tile_data) == 0


def cpu_fact(name: str) -> str:
    """A line of /proc/cpuinfo, as "model name" or "flags", of the first processor; "" if none."""
    cpus = environment.read_text("/proc/cpuinfo")
    match = re.search(rf"^{name}\s*:\s*(.+)$", cpus, re.MULTILINE)
    return match[1].strip() if match else ""
