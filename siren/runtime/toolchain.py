"""The interpreter, NumPy and the C++ compiler that Jittor needs."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path

from siren.runtime.environment import user_environment
from siren.runtime.install import PACKAGES, missing_package
from siren.runtime.paths import digest, private_folder, shell_safe, write_file
from siren.runtime.problem import RuntimeProblem, SettingProblem, describe_error


def check_python() -> None:
    """Raise RuntimeProblem for a Python that Jittor does not support."""
    version = ".".join(map(str, sys.version_info[:2]))
    if not (3, 9) <= sys.version_info[:2] <= (3, 14):
        raise RuntimeProblem(
            f"Jittor 1.3.11 needs Python 3.9 to 3.14, and this is Python {version}."
        )
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise RuntimeProblem(
            f"Jittor 1.3.11 needs Python with its global lock, and this is the free-threaded "
            f"build of Python {version}; use the usual build."
        )


def check_packages() -> None:
    """Raise RuntimeProblem if a package is missing."""
    for module in (*PACKAGES, "jittor"):
        if importlib.util.find_spec(module) is None:
            raise RuntimeProblem(missing_package(module))


def check_numpy() -> None:
    """Raise RuntimeProblem if NumPy cannot be imported."""
    try:
        import numpy as np
    except ImportError as error:
        raise RuntimeProblem(f"NumPy cannot be imported: {describe_error(error)}") from error
    for kind in (np.float32, np.float64):
        np.finfo(kind)  # computed and cached now, before Jittor's kernels disable subnormals


def check_compiler() -> None:
    """Raise RuntimeProblem if the compiler or Python's headers are missing."""
    user = user_environment()
    compiler = user.get("cc_path") or _default_compiler()
    if not shutil.which(compiler):
        if "cc_path" in user:
            raise SettingProblem(f"cc_path is set to {compiler!r}, which is not a program.")
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
