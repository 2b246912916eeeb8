"""Evaluation of the network and its derivatives, behind one interface (see ``reference``).

``choose`` gives the engine of a name. All of them offer ``streams``, ``squared_error`` and
``orthogonalize``.
"""

from __future__ import annotations

import sys

ENGINES = ("fused", "reference")


def choose(name: str, precision: str = "fp32"):
    """The engine called ``name``, one of ``ENGINES``, with a precision of ``fused.PRECISIONS``.

    Where the fused engine cannot be compiled or computes wrong values, a sentence on stderr says
    so and the reference engine, plain Jittor operations, takes its place.
    """
    from siren.engine import reference

    if name == "reference":
        return reference
    from siren.engine.fused import Fused

    engine = Fused(precision)
    problem = engine.why_unusable()
    if problem:
        print(
            f"The fused engine does not work here ({problem}); using --engine reference, "
            "which is slower.",
            file=sys.stderr,
        )
        return reference
    return engine
