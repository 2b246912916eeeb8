"""SIREN on images: parse, read the pictures, make task, network and optimizer, train, save."""

from __future__ import annotations

import os
import signal
import sys

if __name__ == "__main__":  # until main() takes over, Ctrl-C and SIGTERM end the program at once
    message = b"main.py: interrupted before training; nothing was written\n"
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: (os.write(2, message), os._exit(130)))

import argparse

from siren import runtime, signals
from siren.cli.errors import let_rank_0_speak, report_error
from siren.cli.options import parse
from siren.text import safe_streams


def main() -> int:
    """Run the program; returns its exit status."""
    with safe_streams(), signals.raising_interrupt():
        try:
            options = parse(sys.argv[1:])
            runtime.check_launcher()
            if runtime.rank() > 0:  # rank 0 alone prints
                sys.stdout = open(os.devnull, "w")  # noqa: SIM115
            status = dispatch(options)
        except (Exception, KeyboardInterrupt) as error:
            if not isinstance(error, KeyboardInterrupt):
                let_rank_0_speak()
            status = report_error(error, verbose="--verbose" in sys.argv).status
            if runtime.under_mpirun():
                os._exit(status)  # a normal exit would wait for the other processes
        return status


def dispatch(options: argparse.Namespace) -> int:
    """Render a network, run one or all experiments; returns the exit status."""
    if options.task == "render":
        from siren.cli.rendering import render

        return render(options)
    if options.task == "all":
        from siren.cli.experiments import run_all

        return run_all(options, run)
    from siren.cli.several import run_pictures

    return run_pictures(options, run)


def run(options: argparse.Namespace, stop: signals.Stop):
    """Read the pictures, train and save; returns the ``Outcome``.

    With several processes, rank 0 alone reads and writes.
    """
    from siren.cli import inputs
    from siren.cli.folder import output_folder
    from siren.cli.identity import identity_options
    from siren.cli.machine import end_other_ranks
    from siren.cli.several import report_finished_run

    settings = {**identity_options(options), "resume": options.resume}
    if runtime.rank() > 0:
        return experiment(options, settings, [], None, stop)
    pictures = [inputs.read_inputs(options)]
    with output_folder(options, inputs.paths(options).values()) as lock:
        finished = report_finished_run(options, pictures[0])
        if finished:
            end_other_ranks(options)
        return finished or experiment(options, settings, pictures, lock, stop)


def experiment(options: argparse.Namespace, settings: dict, pictures: list, lock, stop):
    """Train and save; returns the ``Outcome``.

    settings  what must be the same in all processes
    pictures  one ``Inputs``, removed from the list to free its memory; empty except in rank 0
    lock      on the output folder; None except in rank 0
    stop      ``signals.Stop``: whether Ctrl-C or SIGTERM has asked for an early end
    """
    from siren.cli.machine import check_memory, choose_and_rehearse, start_jittor

    device = start_jittor(options)
    from siren.cli import processes
    from siren.cli.errors import Outcome
    from siren.cli.finishing import finish
    from siren.cli.inputs import Origin, make_batches
    from siren.cli.recipes import fill_in
    from siren.cli.resuming import open_checkpoint
    from siren.cli.training import announce, handle_interruption, make_preview
    from siren.training.loop import train

    if processes.run_is_finished():
        return Outcome(0, "finished")
    if pictures:
        check_memory(options, pictures[0].image.shape[:2], device)
    engine = choose_and_rehearse(options, device, pictures[0].bits if pictures else 8)
    with signals.shield_children():
        processes.check_agreement(options, {**settings, "device": device})
        origin = Origin(pictures[0].fingerprint(), pictures[0].bits) if pictures else None
        task = processes.scatter_task(make_task(options, pictures.pop()) if pictures else None)
        fill_in(options, task.points.shape, len(task.points))
        network = make_network(options)
        optimizer, schedule = make_optimizer(options, network, engine)
        batches = make_batches(options, len(task.points))
        checkpoint = open_checkpoint(options, device, task, batches, network, optimizer)
        preview = make_preview(options, lock)
        announce(options, task, device)
        with handle_interruption(checkpoint, stop):
            result = train(
                network, task, engine, options.epochs, optimizer, schedule, checkpoint, stop,
                preview, batches,
            )  # fmt: skip
            return finish(options, lock, origin, task, network, engine, result, preview, checkpoint)


def make_network(options: argparse.Namespace):
    """The SIREN to train; ``--seed`` determines its initial weights."""
    from siren.network import Siren

    return Siren(
        out_features=options.channels,
        hidden_features=options.hidden_features,
        hidden_layers=options.hidden_layers,
        omega_0=options.omega_0,
        omega_first=options.omega_first,
        seed=options.seed,
    )


def make_task(options: argparse.Namespace, pictures):
    """The experiment that ``--task`` names."""
    from siren.priors import StructureVariation, TotalVariation
    from siren.tasks.edit import Edit
    from siren.tasks.fit import Fit
    from siren.tasks.inpaint import Inpaint
    from siren.tasks.poisson import Poisson

    image, mask = pictures.image, pictures.mask
    prior = None
    if options.prior == "tv":
        prior = TotalVariation(options.prior_weight, options.seed)
    elif options.prior == "structure":
        prior = StructureVariation(image.shape[:2], options.prior_weight, options.seed)
    if options.task == "fit":
        return Fit(image, prior)
    if options.task == "poisson":
        return Poisson(image, options.operator, options.residual_norm)
    if options.task == "edit":
        return Edit(
            image, pictures.other, options.operator, options.blend, options.alpha,
            options.residual_norm, mask, tuple(options.offset),
        )  # fmt: skip
    return Inpaint(image, options.points, options.seed, prior, options.hold_out, mask)


def make_optimizer(options: argparse.Namespace, network, engine):
    """(optimizer, schedule): Muon on the hidden matrices and Adam on the rest, or Adam on all."""
    from siren.training import optimizer

    schedule = getattr(optimizer, options.schedule)
    if options.optimizer == "muon":
        return optimizer.Muon(network, engine, options.muon_lr, options.lr), schedule
    return optimizer.Adam(network.parameters(), options.lr, engine=engine), schedule


if __name__ == "__main__":
    exit_status = main()
    signals.ignore()  # only the interpreter's shutdown is left
    sys.exit(exit_status)
