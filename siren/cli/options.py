"""The command line: one table of all options, and the parser made of it."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import re
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siren import tasks
from siren.cli import recipes
from siren.cli.errors import BAD_INPUT, let_rank_0_speak
from siren.cli.recipes import in_words
from siren.engine import ENGINES
from siren.text import printable

ROOT = Path(__file__).resolve().parents[2]
OUTPUTS = ROOT / "outputs"
TRAINING = tuple(tasks.TASKS)
TASKS = (*TRAINING, "render")
ALL = "all"
QUICKEST_FIRST = ("inpaint", "fit", "edit", "poisson")
MIN_CROP = 1e-6  # length of a side; coordinates are float32

# Arguments that are negative numbers, not options. argparse itself knows -1 and -0.5, not -1e-4.
NEGATIVE = re.compile(r"-[.\d]|-(inf|nan)", re.IGNORECASE)


@dataclass(frozen=True)
class Option:
    """What there is to know about an option.

    name     as in the namespace of ``parse``, and behind ``--``
    reads    keyword arguments of ``add_argument``: how its values are read
    help     what it does
    tasks    some of ``TASKS``: those in which it has an effect
    default  of every task and recipe; those of a recipe are in ``recipes``
    shown    the default in words, where it is not simply ``default``
    when     a further condition of having an effect: words that follow the tasks, and whether the
             complete options meet it
    """

    name: str
    reads: dict[str, Any]
    help: str
    tasks: tuple[str, ...] = TRAINING
    default: Any = None
    shown: str = ""
    when: tuple[str, Callable[[Namespace], bool]] = ("", lambda options: True)

    @property
    def scope(self) -> str:
        """The runs in which it has an effect, in words."""
        tasks = "training" if self.tasks == TRAINING else "--task " + " or ".join(self.tasks)
        return f"{tasks} {self.when[0]}".rstrip()

    @property
    def default_in_words(self) -> str:
        """Its default, also that of the recipes; "" for a flag, and without a default."""
        if self.shown or self.reads == FLAG:
            return self.shown
        if self.name in recipes.CHOSEN:
            return recipes.default_in_words(self.name)
        return in_words(self.default)


# ---- the values of options ---------------------------------------------------------------------


def integer(at_least: int, at_most: int):
    """A type of arguments: an integer in a range."""
    return _in_range(int, "a whole number", at_least, at_most)


def number(at_least: float, at_most: float):
    """A type of arguments: a number in a range."""
    return _in_range(float, "a number", at_least, at_most)


def _in_range(kind: type, what: str, at_least, at_most):
    def convert(text):
        shown = text if len(text) <= 40 else text[:37] + "..."
        try:
            value = kind(text)
        except ValueError:
            raise ArgumentTypeError(f"{shown!r} is not {what}") from None
        if not at_least <= value <= at_most:  # nor is NaN
            raise ArgumentTypeError(
                f"{shown} must be between {in_words(at_least)} and {in_words(at_most)}"
            )
        return value

    return convert


def path(text: str) -> Path:
    """A type of arguments: a path."""
    if not text:  # Path("") is the current folder
        raise ArgumentTypeError(
            "the path is empty, as an unset shell variable is; give one, or leave the option out"
        )
    return Path(text)


FLAG = {"action": "store_true"}
_DERIVATIVES = ("poisson", "edit")
_PRIOR = ("fit", "inpaint")
_RATE = {"type": number(1e-30, 1e30), "metavar": "RATE"}
_FREQUENCY = {"type": number(1e-3, 1e4), "metavar": "W"}
_IMAGE = {"type": path, "metavar": "IMG"}


def _count(at_least: int, at_most: int, metavar: str = "N") -> dict:
    return {"type": integer(at_least, at_most), "metavar": metavar}


def _choice(*values) -> dict:
    return {"choices": values}


# ---- the table --------------------------------------------------------------------------------

# fmt: off
#: All options, by the part of ``--help`` that they are in.
OPTIONS = {
    "what to do": (
        Option("task", _choice(*TASKS, ALL),
            "fit: learn every pixel; poisson: learn the image from its Laplacian alone; edit: "
            "blend the gradients of two images; inpaint: fill in an image from a few random "
            "pixels; render: draw a trained network at any size; all: the four experiments, of "
            "which each ignores the options of the others, in folders named after task and recipe",
            TASKS, "fit"),
        Option("recipe", _choice(*recipes.NAMES),
            "sets the defaults of a run. report: those of the course report; tuned: far better "
            "results in a twentieth of the work (inpaint: a fifth), at any size",
            default="report"),
        Option("input_path", {**_IMAGE, "nargs": "+", "action": "extend"},
            "image file (PNG, JPEG, WebP, BMP, TIFF, GIF), or a folder of them; with several, each "
            "gets a folder of its own in --output_dir, and summary.csv compares them",
            shown="data/camera.png; inpaint: data/flower.jpg"),
        Option("ot_image_path", _IMAGE,
            "edit: the second image, resized to the size of the first; required with --input_path",
            ("edit",), ROOT / "data" / "rocket.jpg", "data/rocket.jpg"),
        Option("mask_path", _IMAGE,
            "inpaint: white where pixels are missing (replaces --points); edit: white where the "
            "second image is cloned into the first", ("inpaint", "edit")),
        Option("offset", {"type": integer(-16384, 16384), "nargs": 2, "metavar": ("ROWS", "COLS")},
            "edit with --mask_path: shift of the second image and the mask, in pixels",
            ("edit",), (0, 0),
            when=("with --mask_path", lambda options: options.mask_path is not None)),
        Option("output_dir", {"type": path, "metavar": "DIR"},
            "folder for the results, created if missing",
            TASKS, shown="outputs/<task>; tuned: outputs/<task>-tuned"),
    ),
    "render": (
        Option("network_path", {"type": path, "metavar": "NPZ"},
            "render: the network.npz of an earlier run",
            ("render",), OUTPUTS / "fit" / "network.npz", "outputs/fit/network.npz"),
        Option("crop",
            {"type": number(-1, 1), "nargs": 4, "metavar": ("ROW0", "COL0", "ROW1", "COL1")},
            "render: the part to draw, in coordinates; --sidelength is the size of this part",
            ("render",), (-1.0, -1.0, 1.0, 1.0)),
        Option("derivatives", FLAG,
            "render: also draw the magnitude of the gradient, and the Laplacian",
            ("render",), False),
    ),
    "image": (
        Option("channels", {"type": integer(1, 10**9), "choices": (1, 3)},
            "1: gray, 3: color", default=1),
        Option("sidelength", _count(8, 16384, "PIXELS"),
            "the image is resized to this many pixels per side; render: length of the longer side",
            TASKS, 256),
        Option("aspect", _choice("square", "keep"),
            "square: both sides have --sidelength pixels; keep: only the longer side has them",
            default="square"),
        Option("range", {"type": number(-1e30, 1e30), "nargs": 2, "metavar": ("LOW", "HIGH")},
            "black and white of the images, not of the mask, in the numbers of their files, such "
            "as 0 4095; values beyond are clipped; floating-point files may need it",
            shown="0 and the largest number of the file's depth"),
        Option("points", _count(1, 2**28, "PIXELS"),
            "inpaint without --mask_path: number of random given pixels",
            ("inpaint",), shown="5000 for 256 x 256, the same share for other sizes",
            when=("without --mask_path", lambda options: options.mask_path is None)),
    ),
    "training": (
        Option("epochs", _count(1, 10**9),
            "passes over all training points; a pass is one step on all of them, or as many steps "
            "as --batch_points makes of it"),
        Option("batch_points", _count(1, 2**28),
            "points per step, drawn at random and spread evenly; a pass takes each point once"),
        Option("optimizer", _choice("adam", "muon"),
            "muon: Muon on the hidden matrices, Adam on the rest"),
        Option("lr", _RATE, "learning rate of Adam"),
        Option("muon_lr", _RATE, "learning rate of Muon, with --optimizer muon",
            when=("with --optimizer muon and at least one of --hidden_layers",
                  lambda options: options.optimizer == "muon" and options.hidden_layers > 0)),
        Option("schedule", _choice("constant", "linear", "cosine"),
            "schedule of both learning rates; linear and cosine end at 0"),
        Option("operator", _choice("forward", "autograd", "fd"),
            "poisson and edit: how the network is differentiated. forward: exact, in forward mode; "
            "autograd: exact, by jittor.grad (slow); fd: finite differences on the grid",
            _DERIVATIVES),
        Option("residual_norm", _choice("operator", "energy", "pixel"),
            "poisson and edit: norm of the residual. operator: the residual itself; energy, pixel: "
            "the error of the gradient or of the pixels that causes it", _DERIVATIVES),
        Option("prior", _choice("none", "tv", "structure"),
            "fit and inpaint: tv adds --prior_weight times the total variation of the picture to "
            "the loss; structure counts changes less where they cross an edge of the network's own "
            "picture, and so continues edges; with it, inpaint learns the middle of wide gaps from "
            "edge-enhancing diffusion", _PRIOR),
        Option("prior_weight", {"type": number(1e-30, 1e6), "metavar": "W"},
            "fit and inpaint with --prior: its weight",
            _PRIOR, shown=recipes.PRIOR_WEIGHTS_IN_WORDS,
            when=("with --prior tv or structure", lambda options: options.prior != "none")),
        Option("hold_out", {"type": number(0, 0.9), "metavar": "SHARE"},
            "inpaint: share of the given pixels that is not trained on, and chooses the best epoch",
            ("inpaint",)),
        Option("blend", _choice("mixed", "average"),
            "edit: the gradient field. mixed: the larger gradient at every pixel; average: --alpha "
            "times the first plus 1 - alpha times the second", ("edit",), "mixed"),
        Option("alpha", {"type": number(0, 1), "metavar": "SHARE"},
            "edit: share of the first image, 0 to 1; with mixed, in the mean brightness only, and "
            "without --mask_path only", ("edit",), 0.5,
            when=("with --blend average or without --mask_path",
                  lambda options: options.blend == "average" or options.mask_path is None)),
        Option("preview_every", _count(0, 10**9, "K"),
            "refresh preview.png after every K epochs, and write training.gif at the end; 0: "
            "neither", default=0),
        Option("resume", FLAG,
            "continue the interrupted run in --output_dir, or begin one if there is none; the "
            "other options must be those of that run; with several images, finished ones are "
            "skipped",
            default=False),
        Option("seed", _count(0, 2**31 - 1),
            "seed of the initial weights, of the given pixels of inpaint, of batches and of the "
            "prior's points", default=0),
    ),
    "network": (
        Option("omega_0", _FREQUENCY,
            "frequency of the sine activations sin(omega_0 z), 0.001 to 10000"),
        Option("omega_first", _FREQUENCY,
            "frequency of the first layer at the start: its initial weights and biases are "
            "multiplied by omega_first / omega_0"),
        Option("hidden_features", _count(1, 2**16), "units per layer"),
        Option("hidden_layers", _count(0, 1000), "sine layers after the first one", default=3),
    ),
    "machine": (
        Option("device", _choice("auto", "cpu", "cuda"),
            "auto: an NVIDIA GPU if there is a working one, else the CPU", TASKS, "auto"),
        Option("engine", _choice(*ENGINES),
            "fused: kernels written for this network, for CPU and GPU; reference: plain Jittor "
            "operations (slow), the readable definition that the tests hold the fused engine to",
            TASKS, "fused"),
        Option("precision", _choice("auto", "fp32", "fp16", "bf16", "bf16x2"),
            "precision of the fused engine's matrix products. On a GPU, fp16: 11 bits, as TF32, at "
            "twice its speed; bf16: 8 bits. On a CPU with AMX, bf16x2: 16 bits, at twice the "
            "speed. auto: fp16 on a GPU, bf16x2 with AMX, else fp32", default="auto",
            when=("with --engine fused", lambda options: options.engine == "fused")),
        Option("verbose", FLAG, "show Jittor's own messages, and the traceback of an error",
            TASKS, False),
    ),
}
# fmt: on
BY_NAME = {option.name: option for group in OPTIONS.values() for option in group}
# What a run's network does not depend on.
_NOT_IDENTITY = ("output_dir", "verbose", "resume", "device", "preview_every")


# ---- which options count ----------------------------------------------------------------------


def is_effective(name: str, options: Namespace) -> bool:
    """Whether the option called ``name`` has an effect in the run of ``options``."""
    option = BY_NAME[name]
    return options.task in option.tasks and option.when[1](options)


def effective_options(options: Namespace) -> dict:
    """The ``options`` that have an effect in their run, by name."""
    return {name: getattr(options, name) for name in BY_NAME if is_effective(name, options)}


def json_options(options: Namespace) -> dict:
    """The options that have an effect in the run, as JSON stores them."""
    return {name: _as_json(value) for name, value in effective_options(options).items()}


def identity_options(options: Namespace) -> dict:
    """The options that a run's network depends on, as JSON values: ``--resume`` compares these."""
    return {name: v for name, v in json_options(options).items() if name not in _NOT_IDENTITY}


def as_arguments(options: Namespace) -> list[str]:
    """The command line that has the effect of ``options``: what ``parse`` turns into them."""
    arguments = []
    for name, value in effective_options(options).items():
        if value is None or value is False:
            continue
        values = value if isinstance(value, (tuple, list)) else (value,)
        arguments += [f"--{name}", *([] if value is True else map(str, values))]
    return arguments


def display_path(path: Path) -> str:
    """``path`` as printable text; relative to the program's folder if it is inside."""
    with contextlib.suppress(ValueError, OSError, RuntimeError):  # RuntimeError: a loop of links
        path = path.resolve().relative_to(ROOT)
    return printable(str(path))


def _as_json(value):
    if isinstance(value, tuple):
        return list(value)
    return display_path(value) if isinstance(value, Path) else value


# ---- parsing ----------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """An argument parser that reports errors in one sentence, without usage lines."""

    def error(self, message):
        """Print ``message`` in one line and exit with status 2."""
        let_rank_0_speak()
        self.exit(BAD_INPUT, f"{self.prog}: error: {printable(message)} (see --help)\n")


def make_parser() -> Parser:
    """The parser of all options. It sets those that are given, without any defaults."""
    parser = Parser(
        prog="main.py",
        description="Train a SIREN (sine-activated coordinate network) on an image. In the "
        "defaults, exact stands for --operator forward and autograd.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        add_help=False,
    )
    parser._negative_number_matcher = NEGATIVE
    for title, options in OPTIONS.items():
        group = parser.add_argument_group(title)
        if title == "what to do":
            group.add_argument("-h", "--help", action="help", help="print this and exit")
        for option in options:
            default = option.default_in_words.replace("%", "%%")
            words = f"{option.help} (default: {default})" if default else option.help
            group.add_argument(f"--{option.name}", help=words, **option.reads)
    return parser


def parse(arguments: list[str]) -> Namespace:
    """Options with every default filled in; exits with status 2 on a bad one.

    An option that has no effect in this run is bad too (``is_effective``).

    ``input_path`` is a list of files and folders. ``points``, ``batch_points``, ``omega_first``,
    ``prior_weight`` and the tuned ``epochs``, ``hidden_features`` and rates are None by default:
    they depend on the picture (``recipes.resolve``).

    For ``--task all`` the result has only ``task``, ``output_dir``, ``verbose`` and
    ``experiments``, the options of each task, in the order in which they run. Each has those of the
    given options that have an effect in it.
    """
    parser = make_parser()
    explicit = vars(parser.parse_args(arguments))
    task = explicit.get("task", BY_NAME["task"].default)
    tasks = QUICKEST_FIRST if task == ALL else (task,)

    runs = [fill_defaults(explicit, each) for each in tasks]
    for name in explicit:
        if not any(is_effective(name, run) for run in runs):
            parser.error(no_effect_message(name, tasks))
    if "edit" in tasks and ("input_path" in explicit) != ("ot_image_path" in explicit):
        parser.error("--task edit needs two images: give --input_path and --ot_image_path both")

    for position, options in enumerate(runs):
        effective = {name: value for name, value in explicit.items() if is_effective(name, options)}
        runs[position] = fill_defaults(effective, options.task)
        _check_order(parser, options)
    return runs[0] if task != ALL else _all_experiments(runs, explicit)


def fill_defaults(explicit: dict, task: str) -> Namespace:
    """The ``explicit`` options, and for all others the defaults of ``task`` and recipe."""
    name = explicit.get("recipe", BY_NAME["recipe"].default)
    options = {
        **{option.name: option.default for option in BY_NAME.values()},
        "input_path": [ROOT / "data" / ("flower.jpg" if task == "inpaint" else "camera.png")],
        "output_dir": OUTPUTS / folder_name(task, name),
        **dataclasses.asdict(recipes.choose(name, task, explicit.get("operator"))[0]),
        **explicit,
        "task": task,
    }
    for name, value in options.items():
        if isinstance(value, list) and name != "input_path":
            options[name] = tuple(value)
    return Namespace(**options)


def folder_name(task: str, recipe: str) -> str:
    """The name of a run's folder: both recipes of a task may be there, to be compared."""
    return task if recipe == "report" else f"{task}-{recipe}"


def no_effect_message(name: str, tasks: tuple[str, ...]) -> str:
    """Why an option is refused that has no effect in any of ``tasks``."""
    option = BY_NAME[name]
    where = "in this run" if tasks[0] in option.tasks else f"with --task {tasks[0]}"
    if len(tasks) > 1:
        where = "in any of the four tasks"
    return f"--{name} is for {option.scope}, and does nothing {where}; leave it out"


def _all_experiments(runs: list[Namespace], explicit: dict) -> Namespace:
    """The options of ``--task all``: each of ``runs`` gets a folder of its own."""
    folder = explicit.get("output_dir", OUTPUTS)
    for options in runs:
        options.output_dir = folder / folder_name(options.task, options.recipe)
    verbose = explicit.get("verbose", False)
    return Namespace(task=ALL, output_dir=folder, verbose=verbose, experiments=runs)


def _check_order(parser: Parser, options: Namespace) -> None:
    """Exit if the first corner of ``--crop`` or number of ``--range`` is not below the second."""
    row_0, column_0, row_1, column_1 = options.crop
    if min(row_1 - row_0, column_1 - column_0) < MIN_CROP:
        given = " ".join(f"{value:.9g}" for value in options.crop)
        parser.error(
            f"argument --crop: {given} is empty; ROW1 must exceed ROW0, and COL1 must exceed COL0, "
            f"by at least {MIN_CROP:g}"
        )
    if options.range is not None and options.range[0] >= options.range[1]:
        low, high = (f"{value:.9g}" for value in options.range)
        parser.error(f"argument --range: {low} is not below {high}; give the lower number first")
