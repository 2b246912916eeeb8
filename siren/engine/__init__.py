"""Evaluation of the network and its derivatives, behind one interface (see ``reference``).

``get_engine`` gives the engine of a name. Both have the functions of ``reference``.
"""

from __future__ import annotations

import dataclasses
from typing import Callable

from siren.engine.workload import Workload
from siren.runtime.messages import notify

ENGINES = ("fused", "reference")


def get_engine(
    name: str,
    precision: str = "fp32",
    workload: Workload | None = None,
    attempt: Callable[[Workload], str | None] | None = None,
):
    """The engine called ``name``, one of ``ENGINES``, with a precision of ``fused.PRECISIONS``.

    All that ``workload`` names is tried on a few points, at that precision; None: what fitting an
    image with the default network takes. Where any of it cannot be compiled or is wrong, a sentence
    on stderr says so and the reference engine, plain Jittor operations, takes its place, or fp32
    that of bf16x2. It also silently replaces it for networks without kernels
    (``Workload.has_kernels``). ``attempt``, if given, makes the trial, and says what goes wrong.
    Raises ValueError for another name or precision.
    """
    from siren.engine import reference

    if name not in ENGINES:
        raise ValueError(f"there is no engine {name!r}; there are {' and '.join(ENGINES)}")
    workload = dataclasses.replace(workload or Workload(), precision=precision)
    if name == "reference" or not workload.has_kernels:
        return reference
    from siren.engine.fused import Fused

    engine = Fused(precision)
    if attempt is None:
        from siren.engine.trial import why_it_fails as attempt  # takes time to import
    reason = attempt(workload)
    if reason is None:
        return engine
    if precision == "bf16x2":
        notify(
            f"Products of bf16 do not work here ({reason}); using those of float32, which is "
            "slower."
        )
        return get_engine(name, "fp32", workload, attempt)
    notify(
        f"The fused engine does not work here ({reason}); using the reference engine, which is "
        "slower."
    )
    return reference
