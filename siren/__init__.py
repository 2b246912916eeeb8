"""SIREN on images, in Jittor.

Importing this package prepares the environment so that a later ``import jittor`` succeeds on this
machine (see ``siren.runtime``). It does not import Jittor: the modules of ``_NAMES``, which do, are
imported when one of their names is first used.
"""

from importlib import import_module

from siren.runtime import prepare, start

_NAMES = {
    "Adam": "siren.training.optimizer",
    "Batches": "siren.samples",
    "Edit": "siren.tasks.edit",
    "Fit": "siren.tasks.fit",
    "ImageError": "siren.images",
    "ImageWarning": "siren.images",
    "Inpaint": "siren.tasks.inpaint",
    "Muon": "siren.training.optimizer",
    "Poisson": "siren.tasks.poisson",
    "SCHEDULES": "siren.training.optimizer",
    "Siren": "siren.network",
    "StructureVariation": "siren.priors",
    "TotalVariation": "siren.priors",
    "error_picture": "siren.pictures",
    "evaluate": "siren.training.evaluation",
    "get_engine": "siren.engine",
    "gradient_picture": "siren.pictures",
    "laplacian_picture": "siren.pictures",
    "linear": "siren.training.optimizer",
    "predict_derivatives": "siren.training.evaluation",
    "predict_image": "siren.training.evaluation",
    "read_image": "siren.images",
    "read_network": "siren.npz",
    "show": "siren.output.panel",
    "train": "siren.training.loop",
    "write_network": "siren.npz",
    "write_png": "siren.images",
}
__all__ = ["prepare", "start", *_NAMES]

prepare()


def __getattr__(name: str):
    """Import the module of ``name`` on first use."""
    if name not in _NAMES:
        raise AttributeError(f"module 'siren' has no attribute {name!r}")
    return getattr(import_module(_NAMES[name]), name)
