"""The program around its trainings: command line, errors, exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from siren import runtime, signals


def run(arguments: list[str], train_picture: Callable) -> int:
    """Do what the command line says; returns the exit status.

    ``train_picture(session)`` trains on one picture and returns the ``Outcome``.
    """
    from siren.cli.errors import let_rank_0_speak, report_error
    from siren.cli.options import parse
    from siren.text import safe_streams

    with safe_streams(), signals.raising_interrupt():
        try:
            options = parse(arguments)
            runtime.check_launcher()
            if runtime.rank() > 0:  # rank 0 alone prints
                sys.stdout = open(os.devnull, "w")  # noqa: SIM115
            return _dispatch(options, train_picture)
        except (Exception, KeyboardInterrupt) as error:
            if not isinstance(error, KeyboardInterrupt):
                let_rank_0_speak()
            status = report_error(error, verbose="--verbose" in arguments).status
            if runtime.under_mpirun():
                os._exit(status)  # a normal exit would wait for the other processes
            return status


def _dispatch(options, train_picture: Callable) -> int:
    """Render a network, or run one or all experiments; returns the exit status."""
    from functools import partial

    from siren.cli import session

    train = partial(session.run, train_picture)
    if options.task == "render":
        from siren.cli.rendering import render

        return render(options)
    if options.task == "all":
        from siren.cli.experiments import run_all

        return run_all(options, train)
    from siren.cli.several import run_pictures

    return run_pictures(options, train)
