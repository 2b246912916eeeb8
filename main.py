"""SIREN on images: read a picture, resolve the recipe, train a network on the task, save it.

This is the method; what surrounds a training (files, device, several processes, interruptions) is
its ``Session``. Modules of ``siren`` that use Jittor are found as ``siren.NAME`` after
``session.start``: Jittor must have been started first.
"""

from __future__ import annotations

import sys

import siren
from siren.cli import program

if __name__ == "__main__":
    program.end_quietly_before_training()

from siren.cli import inputs, recipes
from siren.cli.session import Session


def train_picture(session: Session):
    """Train one network on one picture, or one pair of them; returns the ``Outcome``."""
    pictures = session.read(inputs.read_inputs)
    settings = session.start(pictures, recipes.resolve)
    task = session.share(make_task, settings, pictures)
    network = make_network(settings)
    optimizer, schedule = make_optimizer(settings, network, session.engine)
    batches = inputs.make_batches(settings, len(task.points))
    session.begin(task, network, optimizer, batches)
    result = siren.train(
        network,
        task,
        session.engine,
        settings.epochs,
        optimizer,
        schedule,
        session.checkpoint,
        session.stop,
        session.preview,
        batches,
    )
    return session.save(task, network, result)


def make_task(settings, pictures: inputs.Inputs):
    """What the network learns from the pictures: the experiment that ``--task`` names."""
    image, mask = pictures.image, pictures.mask
    operator, norm = settings.operator, settings.residual_norm
    if settings.task == "fit":
        return siren.Fit(image, make_prior(settings, image))
    if settings.task == "poisson":
        return siren.Poisson(image, operator, norm)
    if settings.task == "edit":
        blend = settings.blend, settings.alpha
        return siren.Edit(image, pictures.other, operator, *blend, norm, mask, settings.offset)
    prior = make_prior(settings, image)
    return siren.Inpaint(image, settings.points, settings.seed, prior, settings.hold_out, mask)


def make_prior(settings, image):
    """What is added to the loss because pictures are smooth, or None."""
    if settings.prior == "tv":
        return siren.TotalVariation(settings.prior_weight, settings.seed)
    if settings.prior == "structure":
        return siren.StructureVariation(image.shape[:2], settings.prior_weight, settings.seed)
    return None


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
    schedule = getattr(siren, settings.schedule)
    if settings.optimizer == "muon":
        return siren.Muon(network, engine, settings.muon_lr, settings.lr), schedule
    return siren.Adam(network.parameters(), settings.lr, engine=engine), schedule


def main() -> int:
    """Run the program with its command line; returns the exit status."""
    return program.run(sys.argv[1:], train_picture)


if __name__ == "__main__":
    sys.exit(program.exit_status(main))
