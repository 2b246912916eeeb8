"""Corrections of Jittor 1.3.11, made while it is compiled and imported; its package stays as it is.

Copies of some of its C++ files are corrected, for NumPy 2, g++ 16, CUDA 13 and quiet logs. They lie
in a private folder, which stands before Jittor's own folders on the include path of everything that
it compiles; a source file is compiled in place of Jittor's. The copies are made from the installed
files: one in which a text to be replaced does not occur exactly once, as in a later Jittor that
needs no correction, is left out.

Some of its Python modules are changed when they are imported:

- Two functions ``exec`` an import and look for the module in ``locals()``, where it is no longer
  from Python 3.13 on (PEP 667). They find it in ``sys.modules`` instead.
- Its compiling workers must be forks, which Python 3.14 does not start by default: they inherit a
  lock from the process that starts them, and what ``core.accelerated`` has replaced.
- Where its core is known to be compiled, it does not generate its bindings and compare all sources
  with its records again, which takes most of its import.
- Whoever imports it, its operators are compiled by ``jit.sh``, so that none of them switches
  subnormal numbers off.
"""

from __future__ import annotations

import contextlib
import glob
import importlib.util
import multiprocessing
import re
import sys
from functools import partial
from importlib.machinery import PathFinder
from pathlib import Path

from siren.runtime.core import is_missing
from siren.runtime.environment import create_folder, digest, private_folder, write_file
from siren.runtime.jit import accelerate_operators

# ---- C++ ----

# What is inserted into headers, each part after a line that begins with ``// ----``.
_PARTS = Path(__file__).with_name("corrections.h").read_text(encoding="utf8")
_BEFORE_SIZE, _AFTER_INIT, _BEFORE_DEVICE_INIT = re.split(r"// ----.*\n\n", _PARTS)[1:]
_NUMPY_HEADER = [
    ("inline int64 PyArray_Size(", f"{_BEFORE_SIZE}inline int64 PyArray_Size("),
    ("size *= arr->descr->elsize;", "size *= item_size(arr->descr);"),
    ("void numpy_init();", f"void numpy_init();\n\n{_AFTER_INIT.rstrip()}"),
]
_TYPES_HEADER = [("#include <vector>", "#include <cstdint>\n#include <vector>")]
_STACK_VECTOR_HEADER = [("self->at(index)", "self->a[index]")]
# The compiler of operators writes its progress to the standard error stream, log or no log. A
# parent process that reads it says so by a variable (processes.py).
_PARALLEL_COMPILER = [
    (
        "bool change_line = false;",
        """\
bool change_line = false;
    const char* silent = getenv("log_silent");
    const bool shown = getenv("siren_progress") || !silent || string(silent) != "1";""",
    ),
    ("if (diff > 2e9) {", "if (shown && diff > 2e9) {"),
]
_FIRST_FUNCTION = "inline int gpuDeviceInit("
_HELPER_HEADER = [(_FIRST_FUNCTION, f"{_BEFORE_DEVICE_INIT}\n{_FIRST_FUNCTION}")]


def replaced_once(text: str, replacements: list[tuple[str, str]]) -> str:
    """``text`` after all ``replacements`` (before, after); unchanged if one does not fit."""
    if any(text.count(before) != 1 for before, _ in replacements):
        return text
    for before, after in replacements:
        text = text.replace(before, after)
    return text


def corrected_helper_header(text: str) -> str:
    """Jittor's ``helper_cuda.h`` with the properties of a device that CUDA 13 has removed."""
    corrected = text.replace("cudaDeviceProp deviceProp;", "SirenDeviceProp deviceProp;")
    corrected = corrected.replace("cudaGetDeviceProperties(&", "sirenDeviceProperties(&")
    needed = corrected != text and text.count(_FIRST_FUNCTION) == 1
    return replaced_once(corrected, _HELPER_HEADER) if needed else text


CUDA_FOLDER = "extern/cuda/inc"
_SOURCE = "parallel_compiler.cc"
_FILES = [  # (folder of Jittor, name in it, correction)
    ("src", "pyjt/numpy.h", partial(replaced_once, replacements=_NUMPY_HEADER)),
    # g++ 16 looks for uint64_t, which no other header of its library declares in passing any more,
    ("src", "types.h", partial(replaced_once, replacements=_TYPES_HEADER)),
    # and for members in the code of templates that are not used.
    ("src", "misc/stack_vector.h", partial(replaced_once, replacements=_STACK_VECTOR_HEADER)),
    ("src", _SOURCE, partial(replaced_once, replacements=_PARALLEL_COMPILER)),
    (CUDA_FOLDER, "helper_cuda.h", corrected_helper_header),
]


def jittor_folder() -> Path:
    """The folder of the installed Jittor; raises FileNotFoundError."""
    package = importlib.util.find_spec("jittor")
    if package is None:
        raise FileNotFoundError("jittor")
    return Path(package.submodule_search_locations[0])


def write_headers() -> Path:
    """Write the corrected files; returns their folder, whose name is a digest of them."""
    copies = {}
    for folder, name, correct in _FILES:
        with contextlib.suppress(FileNotFoundError):
            original = (jittor_folder() / folder / name).read_text(encoding="utf8")
            copy = correct(original)
            if copy != original:
                copies[name] = copy
    target = private_folder() / f"include-{digest(''.join(copies.values()))}"
    create_folder(target)
    for name, copy in copies.items():
        create_folder((target / name).parent)
        write_file(target / name, copy)
    return target


def with_corrected_source(command: str) -> str:
    """A ``command`` that compiles a file of Jittor's core, with the corrected copy if there is one.

    The copy includes Jittor's headers, which lie on the include path, as the original does.
    """
    original = re.search(rf'"[^"]*/jittor/src/{re.escape(_SOURCE)}"', command)
    copy = original and write_headers() / _SOURCE
    return command.replace(original[0], f'"{copy}"') if copy and copy.exists() else command


# ---- Python ----

_PATCHED = ("jittor_utils", "jittor.pyjt_compiler", "jittor.compiler", "jittor")


def compile_corrected(job: list[str]) -> bool:
    """As Jittor's ``do_compile``, of the corrected copy of a file if there is one."""
    command, *paths = job
    return sys.modules["jittor_utils"].do_compile_itself([with_corrected_source(command), *paths])


@contextlib.contextmanager
def replaced(owner, name: str, value):
    """Within its context, the attribute ``name`` of ``owner`` is ``value``."""
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


@contextlib.contextmanager
def without_checks(jittor_utils):
    """Within its context, what Jittor has compiled is not compared with its sources and flags."""
    library = jittor_utils.cc
    check = library.cache_compile

    def compile_if_missing(command: str, *paths: str) -> bool:
        return is_missing(command) and check(command, *paths)

    with replaced(library, "cache_compile", compile_if_missing), replaced(_Finder, "checks", False):
        yield


def _bindings_if_missing(generate, cache_path: str, jittor_path: str) -> list[str]:
    """The generated files to compile; none where there is the core, of which they are a part."""
    return [] if glob.glob(f"{cache_path}/jittor_core*.so") else generate(cache_path, jittor_path)


class _Finder:
    """Finds those modules as Python does, and patches them when they are executed."""

    checks = True  # whether Jittor compares what it has compiled with its sources

    @staticmethod
    def find_spec(name, path=None, target=None):
        """The specification of a module to be patched; None of any other."""
        spec = PathFinder.find_spec(name, path, target) if name in _PATCHED else None
        if spec is not None:
            execute = spec.loader.exec_module

            def execute_patched(module):
                if name != "jittor":
                    module.locals = lambda: sys.modules
                execute(module)
                if name == "jittor_utils":
                    module.Pool = multiprocessing.get_context("fork").Pool
                    module.do_compile_itself = getattr(module, "do_compile", None)
                    module.do_compile = compile_corrected
                elif name == "jittor.pyjt_compiler" and not _Finder.checks:
                    module.compile = partial(_bindings_if_missing, module.compile)
                elif name == "jittor":
                    accelerate_operators(module)

            spec.loader.exec_module = execute_patched
        return spec


def patch_jittor() -> None:
    """Have Jittor's modules patched when they are imported."""
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)
