"""Which options have an effect in which run."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass

TRAINING = ("fit", "poisson", "edit", "inpaint")
TASKS = (*TRAINING, "render")


@dataclass(frozen=True)
class Scope:
    """The runs in which an option has an effect.

    tasks      some of ``TASKS``
    condition  a further condition, in words that follow the tasks; "" for none
    holds      whether the complete options meet the condition
    """

    tasks: tuple[str, ...]
    condition: str = ""
    holds: Callable[[Namespace], bool] = lambda options: True

    @property
    def description(self) -> str:
        """The scope in words, for a message."""
        tasks = "training" if self.tasks == TRAINING else "--task " + " or ".join(self.tasks)
        return f"{tasks} {self.condition}".rstrip()


_ALL = Scope(TASKS)
_TRAINING = Scope(TRAINING)
_DERIVATIVES = Scope(("poisson", "edit"))
_EDIT = Scope(("edit",))
_RENDER = Scope(("render",))

#: The scope of every option by its name in the namespace of ``options.parse``.
SCOPES = {
    "task": _ALL,
    "recipe": _TRAINING,
    "input_path": _TRAINING,
    "ot_image_path": _EDIT,
    "mask_path": Scope(("inpaint", "edit")),
    "offset": Scope(("edit",), "with --mask_path", lambda options: options.mask_path is not None),
    "output_dir": _ALL,
    "network_path": _RENDER,
    "crop": _RENDER,
    "derivatives": _RENDER,
    "channels": _TRAINING,
    "sidelength": _ALL,
    "aspect": _TRAINING,
    "range": _TRAINING,
    "points": Scope(("inpaint",), "without --mask_path", lambda options: options.mask_path is None),
    "epochs": _TRAINING,
    "batch_points": _TRAINING,
    "optimizer": _TRAINING,
    "lr": _TRAINING,
    "muon_lr": Scope(
        TRAINING,
        "with --optimizer muon and at least one of --hidden_layers",
        lambda options: options.optimizer == "muon" and options.hidden_layers > 0,
    ),
    "schedule": _TRAINING,
    "operator": _DERIVATIVES,
    "residual_norm": _DERIVATIVES,
    "prior": Scope(("fit", "inpaint")),
    "prior_weight": Scope(
        ("fit", "inpaint"), "with --prior tv or structure", lambda options: options.prior != "none"
    ),
    "hold_out": Scope(("inpaint",)),
    "blend": _EDIT,
    "alpha": Scope(
        ("edit",),
        "with --blend average or without --mask_path",
        lambda options: options.blend == "average" or options.mask_path is None,
    ),
    "preview_every": _TRAINING,
    "resume": _TRAINING,
    "seed": _TRAINING,
    "omega_0": _TRAINING,
    "omega_first": _TRAINING,
    "hidden_features": _TRAINING,
    "hidden_layers": _TRAINING,
    "device": _ALL,
    "engine": _ALL,
    "precision": Scope(TRAINING, "with --engine fused", lambda options: options.engine == "fused"),
    "verbose": _ALL,
}


def is_effective(name: str, options: Namespace) -> bool:
    """Whether the option called ``name`` has an effect in the run of ``options``."""
    scope = SCOPES[name]
    return options.task in scope.tasks and scope.holds(options)


def effective_options(options: Namespace) -> dict:
    """The ``options`` that have an effect in their run, by name."""
    return {
        name: value
        for name, value in vars(options).items()
        if name in SCOPES and is_effective(name, options)
    }
