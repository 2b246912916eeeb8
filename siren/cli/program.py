"""The program around its trainings: command line, errors, exit status."""

from __future__ import annotations

import contextlib
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
            if options.task == "render":
                from siren.cli.rendering import render

                return render(options)
            return train(options, train_picture)
        except (Exception, KeyboardInterrupt) as error:
            if not isinstance(error, KeyboardInterrupt):
                let_rank_0_speak()
            status = report_error(error, verbose="--verbose" in arguments).status
            if runtime.under_mpirun():
                os._exit(status)  # a normal exit would wait for the other processes
            return status


def train(options, train_picture: Callable) -> int:
    """Train on one or several pictures, in one or all experiments; returns the exit status."""
    from siren.cli import session
    from siren.cli.finisher import Finisher
    from siren.cli.several import Experiments, Pictures, update_page
    from siren.cli.workers import train_on_workers

    stop = signals.Stop()
    call = Experiments(options, stop) if options.task == "all" else Pictures(options)
    later = None  # the runs to come, until what they need is compiled
    with Finisher() as finisher:
        for runs in call.runs_to_train(finisher.wait):
            if runtime.world_size() > 1 and call.several:
                train_on_workers(runs, train_picture, stop)
                continue
            if call.several and runs:
                with contextlib.suppress(OSError):  # ``begin`` tries again
                    finisher.start()  # its imports take as long as those of this process
            if later is None:
                later = [run for run in call.runs if run.outcome is None] if call.several else []
            for each in runs:
                if stop():
                    break
                if each in later:
                    later.remove(each)
                if each.heading:
                    print(each.heading, flush=True)
                session.run(train_picture, each, stop, finisher if call.several else None, later)
    update_page(options.output_dir, call.several)
    return call.outcome.status
