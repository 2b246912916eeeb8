"""SIREN on images: read a picture, resolve the recipe, train a network on the task, save it.

This is the method; what surrounds a training (files, device, several processes, interruptions) is
its ``Session``. Names that depend on Jittor are used as ``siren.NAME``, after ``session.prepare``,
which starts Jittor.
"""

from __future__ import annotations

import os
import signal
import sys

if __name__ == "__main__":  # the imports below take a while; until ``main``, signals end it at once
    message = b"main.py: interrupted before training; nothing was written\n"
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: (os.write(2, message), os._exit(130)))
    # SciPy solves many systems of a few equations, for which threads only wait for one another: on
    # a busy machine two take up to fifty times as long as one. (Children inherit it.)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import siren
from siren import signals, tasks
from siren.cli import program, recipes


def train_picture(session):
    """Train one network on one picture, or one pair of them; returns the ``Outcome``.

    session  a ``siren.cli.session.Session``
    """
    pictures = session.read()
    settings = session.prepare(pictures, recipes.resolve)
    task = session.share(make_task, settings, pictures)
    network = make_network(settings)
    optimizer, schedule = make_optimizer(settings, network, session.engine)
    batches = make_batches(settings)
    session.open_checkpoint(task)
    result = siren.train(
        network,
        task,
        session.engine,
        settings.epochs,
        optimizer,
        schedule,
        checkpoint=session.checkpoint,
        stop=session.stop,
        preview=session.preview,
        batches=batches,
    )
    return session.save(task, network, result)


def make_task(settings, pictures):
    """What the network learns from the pictures: the experiment that ``--task`` names."""
    prior = None  # what is added to the loss because pictures are smooth
    if settings.prior == "tv":
        prior = siren.TotalVariation(settings.prior_weight, settings.seed)
    elif settings.prior == "structure":
        shape = pictures.image.shape[:2]
        prior = siren.StructureVariation(shape, settings.prior_weight, settings.seed)
    return tasks.load(settings.task).make(settings, pictures, prior)


def make_network(settings):
    """The SIREN to train; ``--seed`` determines its initial weights."""
    return siren.Siren(
        out_features=settings.channels,
        hidden_features=settings.hidden_features,
        hidden_layers=settings.hidden_layers,
        omega_0=settings.omega_0,
        omega_first=settings.omega_first,
        seed=settings.seed,
    )


def make_optimizer(settings, network, engine):
    """(optimizer, schedule): Muon on the hidden matrices and Adam on the rest, or Adam on all."""
    schedule = siren.SCHEDULES[settings.schedule]
    if settings.optimizer == "muon":
        return siren.Muon(network, engine, settings.muon_lr, settings.lr), schedule
    return siren.Adam(network.parameters(), settings.lr, engine=engine), schedule


def make_batches(settings):
    """What cuts a pass over the training points into steps; None: all points in one step."""
    if settings.batch_points is None:
        return None
    return siren.Batches(settings.batch_points, settings.seed)


def main() -> int:
    """Run the program with its command line; returns the exit status."""
    return program.run(sys.argv[1:], train_picture)


if __name__ == "__main__":
    status = main()
    signals.ignore()  # the interpreter alone is left to end
    sys.exit(status)
