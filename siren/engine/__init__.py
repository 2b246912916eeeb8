"""Evaluation of the network and its derivatives, behind one interface (see ``reference``).

``get_engine`` gives the engine of a name. All of them offer ``streams``, ``squared_error`` and
``orthogonalize``.
"""

from __future__ import annotations

import dataclasses
import sys

from siren.engine.use import Use

ENGINES = ("fused", "reference")


def get_engine(name: str, precision: str = "fp32", use: Use | None = None):
    """The engine called ``name``, one of ``ENGINES``, with a precision of ``fused.PRECISIONS``.

    All that ``use`` names is tried on a few points, at that precision; None: what fitting an image
    with the default network takes. Where any of it cannot be compiled or is wrong, a sentence on
    stderr says so and the reference engine, plain Jittor operations, takes its place. So it does,
    without a word, for networks that there are no kernels for (``Use.has_kernels``). Raises
    ValueError for another name or precision.
    """
    from siren.engine import reference

    if name not in ENGINES:
        raise ValueError(f"there is no engine {name!r}; there are {' and '.join(ENGINES)}")
    if name == "reference":
        return reference
    from siren.engine.fused import Fused
    from siren.engine.trial import problem

    engine = Fused(precision)
    if use is not None and not use.has_kernels:
        return reference
    reason = problem(engine, dataclasses.replace(use or Use(), precision=precision))
    return engine if reason is None else fall_back(reason)


def fall_back(reason: str):
    """The reference engine, after a sentence on stderr about why it is not the fused one."""
    from siren.engine import reference

    print(
        f"The fused engine does not work here ({reason}); using --engine reference, "
        "which is slower.",
        file=sys.stderr,
    )
    return reference
