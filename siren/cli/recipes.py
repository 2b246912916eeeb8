"""Recipes: sets of defaults, chosen by ``--recipe``, some of which depend on the picture's size
and on the number of steps.
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass, fields, replace

from siren.cli.errors import Problem
from siren.tasks import TASKS


@dataclass(frozen=True)
class Recipe:
    """Settings by the names of main.py's options; the defaults are the course report's.

    ``resolve`` sets those that are None.
    """

    epochs: int | None = 1000
    hidden_features: int | None = 256
    optimizer: str = "adam"
    lr: float | None = 1e-4
    muon_lr: float | None = 5e-3
    schedule: str = "constant"
    operator: str = "forward"
    residual_norm: str = "operator"
    prior: str = "none"
    hold_out: float = 0.0
    omega_0: float = 30.0


@dataclass(frozen=True)
class Sizing:
    """How a recipe follows the size of the picture, the width and the number of steps.

    omega_first  frequency of the first layer for 256 x 256 pixels and 256 units
    batches      the least number of batches in a pass
    muon_lr      Muon's rate of 256 units in at most ``STEPS_AT_FULL_RATE`` steps
    epochs       passes of 256 units
    """

    omega_first: float
    batches: int
    muon_lr: float
    epochs: int


_REPORT = Recipe(), None
_TUNED = Recipe(
    epochs=None,
    hidden_features=None,
    optimizer="muon",
    lr=None,
    muon_lr=None,
    schedule="linear",
    operator="fd",
    residual_norm="pixel",
    omega_0=20.0,
)
PASSES = 50  # tuned, of 256 units, where the recipe chooses the width
_TUNED_FOR = {  # "" for every other task
    "": (_TUNED, Sizing(omega_first=100, batches=4, muon_lr=5e-3, epochs=PASSES)),
    # Lower frequencies and a prior fill gaps smoothly instead of fitting every given pixel.
    "inpaint": (
        replace(_TUNED, hidden_features=256, prior="structure", omega_0=10.0),
        Sizing(omega_first=10, batches=1, muon_lr=8e-3, epochs=200),
    ),
    # Exact derivatives weigh high frequencies more, and a pass is a single step.
    "exact edit": (
        replace(_TUNED, hidden_features=256, omega_0=15.0),
        Sizing(omega_first=45, batches=1, muon_lr=6e-3, epochs=200),
    ),
    "exact poisson": (
        replace(_TUNED, hidden_features=256, omega_0=8.0),
        Sizing(omega_first=30, batches=1, muon_lr=1e-2, epochs=200),
    ),
}

NAMES = ("report", "tuned")
EXACT = ("forward", "autograd")  # operators
ADAM_RATE = 1e-3  # tuned
STEPS_AT_FULL_RATE = 5000  # rates are lower in trainings of more
WIDTHS = 256, 384, 512, 768, 1024  # units of a layer that the tuned recipe chooses from
HIDDEN_LAYERS = 3  # for which widths were measured
PRIOR_WEIGHTS = {"tv": 5e-4, "structure": 1.6e-3}
DENSE = 0.1  # share of given pixels above which a prior counts less
PRIOR_WEIGHTS_IN_WORDS = (
    ", ".join(f"{weight:g} for {prior}" for prior, weight in PRIOR_WEIGHTS.items())
    + f"; less where more than {100 * DENSE:g} % of the pixels are given"
)
#: The options whose defaults a recipe chooses, or ``resolve``.
CHOSEN = {
    *(field.name for field in fields(Recipe)),
    *("omega_first", "batch_points", "prior_weight"),
}
# Of what ``resolve`` sets: for small pictures and few steps.
_OF_SMALL_PICTURES = {"hidden_features": WIDTHS[0], "lr": ADAM_RATE}
_FOLLOWS = {  # the picture's size, the width or the number of steps; in words, for the help
    "epochs": "; fewer for larger pictures (22 for 512 x 512 in color, 12 for 1024 x 1024), and in "
    "inpaint for more given pixels",
    "hidden_features": "; up to 1024 for larger pictures and more epochs",
    "lr": f"; less in more than {STEPS_AT_FULL_RATE} steps",
    "muon_lr": f"; less for more units and in more than {STEPS_AT_FULL_RATE} steps",
    "omega_first": "; for 256 x 256, more for larger pictures, more units and more given pixels",
    "batch_points": "; at most 16384, or 32 times the side above 512 x 512",
}


def choose(name: str, task: str, operator: str | None = None) -> tuple[Recipe, Sizing | None]:
    """The recipe called ``name``, one of ``NAMES``, for one of main.py's tasks.

    ``operator`` is that of ``--operator``, None if it is not given. With the recipe is returned how
    it follows the size; None: all sizes alike.
    """
    if name == "report":
        return _REPORT
    kind = f"exact {task}" if operator in EXACT else task
    return _TUNED_FOR.get(kind, _TUNED_FOR.get(task, _TUNED_FOR[""]))


def default_points(pixels: int) -> int:
    """The default of ``--points`` for a picture of that many ``pixels``.

    The report's 5000 for 256 * 256; for other sizes the same share, rounded, and at least 1.
    """
    return max(1, round(pixels * 5000 / 65536))


def default_size(pixels: int, channels: int) -> tuple[int, int]:
    """The tuned recipe's (units of a layer, passes) for a picture of so many ``pixels``.

    A network has to grow with its picture, and a wider one needs fewer passes. So the width grows
    with the root of the side, and the passes are as many as cost what ``PASSES`` of 256 units do.
    A pixel in color counts as the root of 3 gray ones: it has three values, but gives one point to
    train on, and a wide network in a few steps is worse than a small one in many.
    """
    width = _nearest_width(230 * (pixels * channels**0.5 / 256**2) ** 0.25)
    return width, _passes(width)


def default_width(pixels: int, channels: int, epochs: int) -> int:
    """The tuned recipe's units of a layer for a picture of so many ``pixels`` in ``epochs`` passes.

    It grows with the square root of the passes, because a wider network makes more of them, up to
    four weights for each value: then hardly more than the rounding to 8 bits is left to learn.
    """
    width, passes = default_size(pixels, channels)
    enough = (4 * pixels * channels / HIDDEN_LAYERS) ** 0.5
    return max(width, _nearest_width(min(width * (epochs / passes) ** 0.5, enough)))


def _nearest_width(ideal: float) -> int:
    return min(WIDTHS, key=lambda width: max(width / ideal, ideal / width))


def _passes(width: int) -> int:
    """As many passes as cost no more than ``PASSES`` of 256 units; not more than those."""
    return max(1, min(PASSES, int(PASSES * (256 / width) ** 2)))


def resolve(options: Namespace, shape: tuple[int, int], given: int | None = None) -> Namespace:
    """A copy of ``options`` in which what depends on the picture is set, where it is None.

    shape  (height, width) of the picture
    given  number of pixels that a mask leaves to inpaint; None without one

    ``points`` is set for inpaint, ``prior_weight`` with a prior, and ``epochs``,
    ``hidden_features``, ``omega_first``, ``batch_points`` and both rates if the recipe follows the
    size. ``omega_first`` stays None where the first layer's frequency is ``omega_0``, and
    ``batch_points`` where every step takes all points. Raises Problem.

    The first layer's frequency grows with the cube root of the side: larger pictures have finer
    detail, but most of their detail is coarser than the finest. A wider network has units enough
    for more of that: where the recipe chooses the width, the frequency grows with its power of 2/3,
    and above 256 x 256 with the root of the side; Muon's rate falls with the width's cube root.
    Batches have at most 16384 points, or 32 * side above 512 * 512: the less of a picture a network
    can learn, the noisier a batch. Beyond 5000 steps Adam's rate is inversely proportional to their
    number: its steps have a constant size, and in tens of thousands of them the frequencies of the
    first layer would drift away. Muon's falls by a fifth for each factor of ten. Where more than
    ``DENSE`` of the pixels are given, as around scratches, the first layer's frequency grows with
    the root of their share, as that of a denser grid would, and a prior's weight falls with their
    share: the more pixels say what is there, the less a prior has to. The passes fall with its cube
    root. Rates and weights have three digits. All these were found by experiments
    (benchmarks/NOTES.md, "The tuned recipe").
    """
    options = Namespace(**vars(options))
    pixels = shape[0] * shape[1]
    points = _training_points(options, pixels, given)
    density = max(1, points / (DENSE * pixels)) if TASKS[options.task].fills else 1
    if options.prior_weight is None and options.prior != "none":
        options.prior_weight = _three_digits(PRIOR_WEIGHTS[options.prior] / density)
    chosen, sizing = choose(options.recipe, options.task, options.operator)
    if sizing is None:
        return options
    chooses_width = chosen.hidden_features is None
    if chooses_width:
        _resolve_size(options, pixels)
    elif options.epochs is None:
        options.epochs = round(sizing.epochs / density ** (1 / 3))
    widening = max(1, options.hidden_features / 256) if chooses_width else 1
    side = pixels**0.5
    if options.omega_first is None:
        power = 1 / 2 if chooses_width and side > 256 else 1 / 3
        frequency = sizing.omega_first * (side / 256) ** power * widening ** (2 / 3)
        options.omega_first = round(frequency * density**0.5, 2)
    pointwise = TASKS[options.task].pointwise(options.operator, options.residual_norm)
    if options.batch_points is None and pointwise:
        size = min(max(16384, round(32 * side)), -(-points // sizing.batches))
        options.batch_points = size if size < points else None
    steps = options.epochs * -(-points // (options.batch_points or points))
    share = min(1, STEPS_AT_FULL_RATE / steps)
    if options.lr is None:
        options.lr = _three_digits(ADAM_RATE * share)
    if options.muon_lr is None:
        options.muon_lr = _three_digits(sizing.muon_lr * share**0.1 / widening ** (1 / 3))
    return options


def _resolve_size(options: Namespace, pixels: int) -> None:
    """Set ``epochs`` and ``hidden_features`` for a picture of so many ``pixels``, if None.

    A width that is given may be less than the default, and then has more passes.
    """
    if options.epochs is None:
        width, passes = default_size(pixels, options.channels)
        options.epochs = max(passes, _passes(options.hidden_features or width))
    if options.hidden_features is None:
        options.hidden_features = default_width(pixels, options.channels, options.epochs)


def _training_points(options: Namespace, pixels: int, given: int | None) -> int:
    """How many points are trained on; sets ``points`` if a task that fills in has no mask.

    Raises Problem if no pixel is left to fill in, or a batch has more points than there are.
    """
    points = pixels
    if TASKS[options.task].fills:
        if given is None:
            given = options.points = options.points or default_points(pixels)
        if given >= pixels:
            raise Problem(
                f"--points {given} leaves none of the {pixels} pixels to fill in; give fewer, or a "
                "larger --sidelength"
            )
        points = given - int(options.hold_out * given)
    if options.batch_points is not None and options.batch_points > points:
        raise Problem(
            f"--batch_points {options.batch_points} is more than the {points} points that are "
            "trained on; leave it out to use all of them"
        )
    return points


def default_in_words(name: str) -> str:
    """The default of the option called ``name`` in both recipes: a field of ``Recipe``,
    ``omega_first`` or ``batch_points``.
    """
    report = "omega_0" if name == "omega_first" else "all" if name == "batch_points" else None
    report = report or in_words(getattr(_REPORT[0], name))
    tuned = {kind: _tuned_value(name, *pair) for kind, pair in _TUNED_FOR.items()}
    usual = tuned.pop("")
    others = "".join(f", {kind} {value}" for kind, value in tuned.items() if value != usual)
    words = f"{usual}{others}{_FOLLOWS.get(name, '')}"
    return report if words == report else f"{report}; tuned: {words}"


def _tuned_value(name: str, recipe: Recipe, sizing: Sizing) -> str:
    if name == "batch_points":
        return "all" if sizing.batches == 1 else f"1 / {sizing.batches} of them"
    value = getattr(sizing if name in ("omega_first", "muon_lr", "epochs") else recipe, name)
    return in_words(_OF_SMALL_PICTURES[name] if value is None else value)


def in_words(value) -> str:
    """``value`` as it is given on the command line; "" for None."""
    if isinstance(value, tuple):
        return " ".join(map(in_words, value))
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _three_digits(rate: float) -> float:
    return float(f"{rate:.3g}")
