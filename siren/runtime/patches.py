"""Changes modules of Jittor 1.3.11 while they are imported; nothing of the package is changed.

- Two of its functions ``exec`` an import and look for the module in ``locals()``, where it is no
  longer from Python 3.13 on (PEP 667). They find it in ``sys.modules`` instead.
- Its compiling workers must be forks, which Python 3.14 does not start by default: they inherit a
  lock from the process that starts them, and what ``core.accelerate`` has replaced.
- Whoever imports it, its operators are compiled by ``jit.sh``, so that none of them switches
  subnormal numbers off.

And it compiles the corrected copy of a source file in place of its own (headers.py).
"""

from __future__ import annotations

import multiprocessing
import sys
from importlib.machinery import PathFinder

from siren.runtime.headers import with_corrected_source
from siren.runtime.jit import accelerate

_PATCHED = ("jittor_utils", "jittor.compiler", "jittor")


def compile_corrected(job: list[str]) -> bool:
    """Compile one file as Jittor does, or the corrected copy of it.

    job   [command, path of the cache, path of Jittor]
    """
    command, *paths = job
    return sys.modules["jittor_utils"].do_compile_itself([with_corrected_source(command), *paths])


class _Finder:
    """Finds those modules as Python does, and patches them when they are executed."""

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
                elif name == "jittor":
                    accelerate(module)

            spec.loader.exec_module = execute_patched
        return spec


def patch_jittor() -> None:
    """Have Jittor's modules patched when they are imported."""
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)
