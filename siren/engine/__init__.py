"""Evaluation of the network and its derivatives, behind one interface (see ``reference``).

``choose`` imports the engine by name. All of them offer ``streams`` and ``squared_error``.
"""

from __future__ import annotations

import sys

ENGINES = ("fused", "reference")


def choose(name: str):
    """The module of the engine called ``name``, one of ``ENGINES``.

    Where the fused engine cannot be compiled or computes wrong values, a sentence on stderr says
    so and the reference engine, plain Jittor operations, takes its place.
    """
    from siren.engine import reference

    if name == "reference":
        return reference
    from siren.engine import fused

    problem = fused.why_unusable()
    if problem:
        print(
            f"The fused engine does not work here ({problem}); using --engine reference, "
            "which is slower.",
            file=sys.stderr,
        )
        return reference
    return fused
