"""The interpreter, NumPy, the C++ compiler and the headers that Jittor compiles with."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import re
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path

from siren.runtime.environment import user_environment
from siren.runtime.paths import digest, make_private, private_folder, shell_safe, write_file
from siren.runtime.problem import RuntimeProblem


def check_python() -> None:
    """Raise RuntimeProblem for a version of Python that Jittor does not support."""
    if not (3, 9) <= sys.version_info[:2] <= (3, 12):
        version = ".".join(map(str, sys.version_info[:2]))
        raise RuntimeProblem(
            f"Jittor 1.3.11 needs Python 3.9 to 3.12, and this is Python {version}."
        )


def check_numpy() -> None:
    """Raise RuntimeProblem if NumPy is missing, or has a version whose arrays Jittor misreads."""
    try:
        import numpy as np
    except ImportError as error:
        raise RuntimeProblem('NumPy is missing; pip install "numpy<2" provides it.') from error
    if int(np.__version__.split(".")[0]) >= 2:
        # Jittor assumes the array layout of NumPy 1, and silently reads garbage from NumPy 2.
        raise RuntimeProblem(
            f"Jittor computes wrong values with NumPy {np.__version__}; "
            'pip install "numpy<2" repairs this.'
        )
    for kind in (np.float32, np.float64):
        np.finfo(kind)  # computed and cached now, before Jittor's kernels disable subnormals


def check_compiler() -> None:
    """Raise RuntimeProblem if the compiler or Python's headers are missing."""
    user = user_environment()
    compiler = user.get("cc_path") or _default_compiler()
    if not shutil.which(compiler):
        if "cc_path" in user:
            raise RuntimeProblem(f"cc_path is set to {compiler!r}, which is not a program.")
        raise RuntimeProblem(
            f"The C++ compiler {compiler} is missing, with which Jittor compiles its kernels; "
            "install the package g++ (Debian, Ubuntu) or gcc-c++ (Fedora)."
        )
    if "python_config_path" not in user and not any(
        Path(folder, "Python.h").exists() for folder in _python_include_folders()
    ):
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise RuntimeProblem(
            f"The C headers of Python {version} (Python.h) are missing; "
            f"install the package python{version}-dev (Debian, Ubuntu) or python3-devel (Fedora)."
        )


def compiler_setting() -> dict[str, str]:
    """The variable cc_path, if a shell would split the path of the default compiler."""
    compiler = shutil.which(_default_compiler()) or ""
    safe = shell_safe(compiler, os.path.dirname(compiler)) if compiler else ""
    return {"cc_path": safe} if safe != compiler else {}


def _default_compiler() -> str:
    return "clang++" if sys.platform == "darwin" else "g++"


def _python_include_folders() -> list[str]:
    return sorted({sysconfig.get_path("include"), sysconfig.get_path("platinclude")})


def python_config_setting() -> dict[str, str]:
    """The variable python_config_path."""
    return {"python_config_path": str(write_python_config())}


def write_python_config() -> Path:
    """Write a replacement of ``python3.X-config`` that describes exactly this interpreter.

    Jittor looks for that script beside the interpreter and in /usr. In a virtual environment of a
    pyenv or conda Python it finds none, or that of another Python.
    """
    includes = " ".join(f'-I"{shell_safe(folder)}"' for folder in _python_include_folders())
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
    return write_file(private_folder() / f"python-config-{digest(script)}", script, mode=0o700)


def corrected_helper_header(text: str) -> str:
    """Jittor's ``helper_cuda.h`` without the fields that CUDA 13 has removed.

    ``cudaDeviceProp`` lost ``clockRate`` and ``computeMode``; ``cudaDeviceGetAttribute`` has had
    both since CUDA 5. The device is the one whose properties the code has read last.
    """
    attribute = {"clockRate": "cudaDevAttrClockRate", "computeMode": "cudaDevAttrComputeMode"}
    pattern = re.compile(
        r"cudaGetDeviceProperties\(&deviceProp,\s*(?P<device>\w+)\)"
        r"|deviceProp\.(?P<field>clockRate|computeMode)\b"
    )
    matches = list(pattern.finditer(text))
    if not any(match["field"] for match in matches):
        return text
    pieces, end, device = [], 0, "0"
    for match in matches:
        device = match["device"] or device
        pieces.append(text[end : match.start()])
        pieces.append(
            f"sirenDeviceAttribute({attribute[match['field']]}, {device})"
            if match["field"]
            else match[0]
        )
        end = match.end()
    text = "".join([*pieces, text[end:]])
    function = (
        "inline int sirenDeviceAttribute(cudaDeviceAttr attribute, int device) {\n"
        "  int value = 0;\n"
        "  cudaDeviceGetAttribute(&value, attribute, device);\n"
        "  return value;\n"
        "}\n\n"
    )
    user = text.rindex("\ninline ", 0, text.index("sirenDeviceAttribute(")) + 1
    return text[:user] + function + text[user:]


def original_header() -> Path:
    """The ``helper_cuda.h`` of the installed Jittor."""
    package = importlib.util.find_spec("jittor")
    if package is None:
        raise FileNotFoundError("jittor")
    return Path(package.submodule_search_locations[0], "extern", "cuda", "inc", "helper_cuda.h")


def write_corrected_header() -> Path:
    """Write the corrected ``helper_cuda.h`` to our own folder; the package is not changed."""
    header = corrected_helper_header(original_header().read_text(encoding="utf8"))
    folder = private_folder() / f"include-{digest(header)}"
    if not make_private(folder):
        raise RuntimeProblem(f"{folder} can be written by other users; remove it.")
    return write_file(folder / "helper_cuda.h", header)
