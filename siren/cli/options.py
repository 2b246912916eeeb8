"""The options of the command line: ranges, defaults, and valid combinations."""

from __future__ import annotations

import argparse
import dataclasses
import re
from pathlib import Path

from siren.cli import recipes
from siren.cli.arguments import integer, number, path
from siren.cli.errors import BAD_INPUT, let_rank_0_speak
from siren.cli.relevance import SCOPES, TASKS, is_effective
from siren.engine import ENGINES
from siren.text import printable

ROOT = Path(__file__).resolve().parents[2]
OUTPUTS = ROOT / "outputs"
DEFAULT_INPUT = "camera.png"
DEFAULT_INPAINT = "flower.jpg"
DEFAULT_OTHER = "rocket.jpg"
UNLISTED_DEFAULTS = {  # argparse does not know these; help texts describe them in words
    "mask_path": None,
    "range": None,
    "points": None,
    "batch_points": None,
    "omega_first": None,
    "prior_weight": None,
    "network_path": OUTPUTS / "fit" / "network.npz",
    "crop": (-1.0, -1.0, 1.0, 1.0),
    "derivatives": False,
    "resume": False,
    "verbose": False,
}
ALL = "all"
QUICKEST_FIRST = ("inpaint", "fit", "edit", "poisson")
MIN_CROP = 1e-6  # length of a side; coordinates are float32

# Arguments that are negative numbers, not options. argparse itself knows -1 and -0.5, not -1e-4.
NEGATIVE = re.compile(r"-[.\d]|-(inf|nan)", re.IGNORECASE)


class Parser(argparse.ArgumentParser):
    """An argument parser that reports errors in one sentence, without usage lines."""

    def error(self, message):
        """Print ``message`` in one line and exit with status 2."""
        let_rank_0_speak()
        self.exit(BAD_INPUT, f"{self.prog}: error: {printable(message)} (see --help)\n")


def parse(arguments: list[str]) -> argparse.Namespace:
    """Options with every default filled in; exits with status 2 on a bad one.

    An option that has no effect in this run is bad too (``relevance.is_effective``).

    ``input_path`` is a list of files and folders. ``points``, ``batch_points``, ``omega_first`` and
    the tuned rates are None by default: they depend on the picture's size and the number of steps
    (``recipes``).

    For ``--task all`` the result has only ``task``, ``output_dir``, ``verbose`` and
    ``experiments``, the options of each task, in the order in which they run. Each has those of the
    given options that have an effect in it.
    """
    parser = make_parser()
    common_defaults = vars(parser.parse_args([]))
    blank = argparse.Namespace(**dict.fromkeys(SCOPES))  # argparse fills no default over these
    parsed = vars(parser.parse_args(arguments, blank))
    explicit = {name: value for name, value in parsed.items() if value is not None}
    task = explicit.get("task", common_defaults["task"])
    tasks = QUICKEST_FIRST if task == ALL else (task,)

    runs = [fill_defaults(explicit, common_defaults, each) for each in tasks]
    for name in explicit:
        if not any(is_effective(name, run) for run in runs):
            parser.error(no_effect_message(name, tasks))
    if "edit" in tasks and ("input_path" in explicit) != ("ot_image_path" in explicit):
        present, missing = "--input_path", "--ot_image_path"
        if "ot_image_path" in explicit:
            present, missing = missing, present
        parser.error(f"--task edit needs two images: {present} is given, give {missing} too")

    for position, options in enumerate(runs):
        effective = {name: value for name, value in explicit.items() if is_effective(name, options)}
        runs[position] = fill_defaults(effective, common_defaults, options.task)
        _check_crop(parser, options.crop)
        _check_range(parser, options.range)
    return runs[0] if task != ALL else _all_experiments(runs, explicit)


def _all_experiments(runs: list[argparse.Namespace], explicit: dict) -> argparse.Namespace:
    """The options of ``--task all``: each of ``runs`` gets a folder of its own."""
    folder = explicit.get("output_dir", OUTPUTS)
    for options in runs:
        options.output_dir = folder / folder_name(options.task, options.recipe)
    verbose = explicit.get("verbose", False)
    return argparse.Namespace(task=ALL, output_dir=folder, verbose=verbose, experiments=runs)


def _check_crop(parser: Parser, crop: tuple[float, ...]) -> None:
    row_0, column_0, row_1, column_1 = crop
    if min(row_1 - row_0, column_1 - column_0) < MIN_CROP:
        given = " ".join(f"{value:.9g}" for value in crop)
        parser.error(
            f"argument --crop: {given} is empty, or nearly so; ROW1 must exceed ROW0, and COL1 "
            f"must exceed COL0, by at least {MIN_CROP:g}"
        )


def _check_range(parser: Parser, limits: tuple[float, float] | None) -> None:
    if limits is not None and limits[0] >= limits[1]:
        low, high = (f"{value:.9g}" for value in limits)
        parser.error(f"argument --range: {low} is not below {high}; give the lower number first")


def no_effect_message(name: str, tasks: tuple[str, ...]) -> str:
    """Why an option is refused that has no effect in any of ``tasks``."""
    scope = SCOPES[name]
    where = "in this run" if tasks[0] in scope.tasks else f"with --task {tasks[0]}"
    if len(tasks) > 1:
        where = "in any of the four tasks"
    return f"--{name} is for {scope.description}, and does nothing {where}; leave it out"


def fill_defaults(explicit: dict, common_defaults: dict, task: str) -> argparse.Namespace:
    """The ``explicit`` options, and defaults for all others.

    ``common_defaults`` depend on neither the task nor the recipe.
    """
    name = explicit.get("recipe", common_defaults["recipe"])
    task_defaults = {
        "input_path": [ROOT / "data" / (DEFAULT_INPAINT if task == "inpaint" else DEFAULT_INPUT)],
        "ot_image_path": ROOT / "data" / DEFAULT_OTHER,
        "output_dir": OUTPUTS / folder_name(task, name),
    }
    recipe = recipes.recipe(name, task, explicit.get("operator"))
    options = {
        **common_defaults,
        **UNLISTED_DEFAULTS,
        **task_defaults,
        **dataclasses.asdict(recipe),
        **explicit,
        "task": task,
    }
    options.update(crop=tuple(options["crop"]), offset=tuple(options["offset"]))
    if options["range"] is not None:
        options["range"] = tuple(options["range"])
    if options["prior_weight"] is None:
        options["prior_weight"] = recipes.PRIOR_WEIGHTS.get(options["prior"])
    return argparse.Namespace(**options)


def folder_name(task: str, recipe: str) -> str:
    """The name of a run's folder: both recipes of a task may be there, to be compared."""
    return task if recipe == "report" else f"{task}-{recipe}"


def make_parser() -> Parser:
    """The parser of all options."""
    parser = Parser(
        prog="main.py",
        description="Train a SIREN (sine-activated coordinate network) on an image.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    parser._negative_number_matcher = NEGATIVE
    group = parser.add_argument_group("what to do")
    _add_task(group)
    _add_files(group)
    _add_render(parser.add_argument_group("render"))
    _add_image(parser.add_argument_group("image"))
    group = parser.add_argument_group("training")
    _add_optimization(group)
    _add_loss(group)
    _add_course(group)
    _add_network(parser.add_argument_group("network"))
    _add_machine(parser.add_argument_group("machine"))
    return parser


def _add_task(group):
    group.add_argument("-h", "--help", action="help", help="print this and exit")
    group.add_argument(
        "--task",
        choices=(*TASKS, ALL),
        default="fit",
        help="fit: learn every pixel; poisson: learn the image from its Laplacian alone; edit: "
        "blend the gradients of two images; inpaint: fill in an image from a few random pixels; "
        "render: draw a trained network at any size; all: the four experiments, of which each "
        "ignores the options of the others, in folders named after task and recipe",
    )
    group.add_argument(
        "--recipe",
        choices=recipes.NAMES,
        default="report",
        help="defaults of the options below. report: those of the course report; tuned: far better "
        "results in a twentieth of the work (inpaint: a fifth), at any size",
    )


def _add_files(group):
    group.add_argument(
        "--input_path",
        type=path,
        nargs="+",
        action="extend",
        metavar="IMG",
        default=argparse.SUPPRESS,
        help="image file (PNG, JPEG, WebP, BMP, TIFF, GIF), or a folder of them; with several, "
        "each gets a folder of its own in --output_dir, and summary.csv compares them (default: "
        "data/camera.png; inpaint: data/flower.jpg)",
    )
    group.add_argument(
        "--ot_image_path",
        type=path,
        metavar="IMG",
        default=argparse.SUPPRESS,
        help="edit: the second image, resized to the size of the first; required with --input_path "
        "(default: data/rocket.jpg)",
    )
    group.add_argument(
        "--mask_path",
        type=path,
        metavar="IMG",
        default=argparse.SUPPRESS,
        help="inpaint: white where pixels are missing (replaces --points); edit: white where the "
        "second image is cloned into the first",
    )
    group.add_argument(
        "--offset",
        type=integer(-16384, 16384),
        nargs=2,
        default=(0, 0),
        metavar=("ROWS", "COLS"),
        help="edit with --mask_path: shift of the second image and the mask, in pixels",
    )
    group.add_argument(
        "--output_dir",
        type=path,
        metavar="DIR",
        default=argparse.SUPPRESS,
        help="folder for the results, created if missing (default: outputs/<task>, and "
        "outputs/<task>-tuned with --recipe tuned",
    )


def _add_render(group):
    group.add_argument(
        "--network_path",
        type=path,
        metavar="NPZ",
        default=argparse.SUPPRESS,
        help="the network.npz of an earlier run (default: outputs/fit/network.npz)",
    )
    group.add_argument(
        "--crop",
        type=number(-1, 1),
        nargs=4,
        default=argparse.SUPPRESS,
        metavar=("ROW0", "COL0", "ROW1", "COL1"),
        help="the part to draw, in coordinates; --sidelength is the size of this part (default: "
        "-1 -1 1 1, the whole picture)",
    )
    group.add_argument(
        "--derivatives",
        action="store_true",
        default=argparse.SUPPRESS,
        help="also draw the magnitude of the gradient, and the Laplacian",
    )


def _add_image(group):
    group.add_argument(
        "--channels",
        type=integer(1, 10**9),
        choices=(1, 3),
        default=1,
        help="1: gray, 3: colour",
    )
    group.add_argument(
        "--sidelength",
        type=integer(8, 16384),
        default=256,
        metavar="PIXELS",
        help="the image is resized to this many pixels per side; render: length of the longer side",
    )
    group.add_argument(
        "--aspect",
        choices=("square", "keep"),
        default="square",
        help="square: both sides have --sidelength pixels; keep: only the longer side has them",
    )
    group.add_argument(
        "--range",
        type=number(-1e30, 1e30),
        nargs=2,
        default=argparse.SUPPRESS,
        metavar=("LOW", "HIGH"),
        help="black and white of the images, not of the mask, in the numbers of their files, such "
        "as 0 4095; values beyond are clipped (default: 0 and the largest number of the file's "
        "depth; floating-point, signed and 32-bit files may need it)",
    )
    group.add_argument(
        "--points",
        type=integer(1, 2**28),
        default=argparse.SUPPRESS,
        metavar="PIXELS",
        help="inpaint without --mask_path: number of random given pixels (default: 5000 for "
        "256 x 256, the same share for other sizes)",
    )


def _add_optimization(group):
    group.add_argument(
        "--epochs",
        type=integer(1, 10**9),
        default=argparse.SUPPRESS,
        metavar="N",
        help="passes over all training points; a pass is one step on all of them, or as many steps "
        "as --batch_points makes of it (default: 1000; tuned: 50, inpaint "
        "200, poisson and edit with exact derivatives 200)",
    )
    group.add_argument(
        "--batch_points",
        type=integer(1, 2**28),
        default=argparse.SUPPRESS,
        metavar="N",
        help="points per step, drawn at random and spread evenly; a pass takes each point once "
        "(default: all; tuned: a quarter, inpaint all, but at most 16384, or 32 times the side "
        "above 512 x 512)",
    )
    group.add_argument(
        "--optimizer",
        choices=("adam", "muon"),
        default=argparse.SUPPRESS,
        help="muon: Muon on the hidden matrices, Adam on the rest (default: adam; tuned: muon)",
    )
    group.add_argument(
        "--lr",
        type=number(1e-30, 1e30),
        default=argparse.SUPPRESS,
        metavar="RATE",
        help="learning rate of Adam (default: 0.0001; tuned: 0.001, or 5 / steps in more than "
        "5000 steps)",
    )
    group.add_argument(
        "--muon_lr",
        type=number(1e-30, 1e30),
        default=argparse.SUPPRESS,
        metavar="RATE",
        help="learning rate of Muon, with --optimizer muon (default: 0.005; tuned: 0.008 for "
        "inpaint, 0.006 and 0.01 for edit and poisson with exact derivatives; less in more than "
        "5000 steps)",
    )
    group.add_argument(
        "--schedule",
        choices=("constant", "linear", "cosine"),
        default=argparse.SUPPRESS,
        help="schedule of both learning rates; linear and cosine end at 0 (default: constant; "
        "tuned: linear)",
    )


def _add_loss(group):
    group.add_argument(
        "--operator",
        choices=("forward", "autograd", "fd"),
        default=argparse.SUPPRESS,
        help="poisson and edit: how the network is differentiated. forward: exact, in forward "
        "mode; autograd: exact, by jittor.grad (slow); fd: finite differences on the grid "
        "(default: forward; tuned: fd)",
    )
    group.add_argument(
        "--residual_norm",
        choices=("operator", "energy", "pixel"),
        default=argparse.SUPPRESS,
        help="poisson and edit: norm of the residual. operator: the residual itself; energy, "
        "pixel: the error of the gradient or of the pixels that causes it (default: operator; "
        "tuned: pixel)",
    )
    group.add_argument(
        "--prior",
        choices=("none", "tv", "structure"),
        default=argparse.SUPPRESS,
        help="fit and inpaint: tv adds --prior_weight times the total variation of the picture to "
        "the loss; structure counts changes less where they cross an edge, and so continues edges "
        "(default: none; tuned: structure for inpaint)",
    )
    group.add_argument(
        "--prior_weight",
        type=number(1e-30, 1e6),
        default=argparse.SUPPRESS,
        metavar="W",
        help="fit and inpaint with --prior: its weight, up to 1000000 (default: 0.0005 for tv, "
        "0.0013 for structure)",
    )
    group.add_argument(
        "--hold_out",
        type=number(0, 0.9),
        default=argparse.SUPPRESS,
        metavar="SHARE",
        help="inpaint: share of the given pixels that is not trained on, and chooses the best "
        "epoch (default: 0)",
    )
    group.add_argument(
        "--blend",
        choices=("mixed", "average"),
        default="mixed",
        help="edit: the gradient field. mixed: the larger gradient at every pixel; average: "
        "--alpha times the first plus 1 - alpha times the second",
    )
    group.add_argument(
        "--alpha",
        type=number(0, 1),
        default=0.5,
        metavar="SHARE",
        help="edit: share of the first image, 0 to 1; with mixed, in the mean brightness only, and "
        "without --mask_path only",
    )


def _add_course(group):
    group.add_argument(
        "--preview_every",
        type=integer(0, 10**9),
        default=0,
        metavar="K",
        help="refresh preview.png after every K epochs, and write training.gif at the end; 0: "
        "neither",
    )
    group.add_argument(
        "--resume",
        action="store_true",
        default=argparse.SUPPRESS,
        help="continue the interrupted run in --output_dir, or begin one if there is none; the "
        "other options must be those of that run; with several images, finished ones are skipped",
    )
    group.add_argument(
        "--seed",
        type=integer(0, 2**31 - 1),
        default=0,
        metavar="N",
        help="seed of the initial weights, of the given pixels of inpaint and of batches",
    )


def _add_network(group):
    group.add_argument(
        "--omega_0",
        type=number(1e-3, 1e4),
        default=argparse.SUPPRESS,
        metavar="W",
        help="frequency of the sine activations sin(omega_0 z), 0.001 to 10000 (default: 30; "
        "tuned: 20, inpaint 10, edit and poisson with exact derivatives 15 and 8)",
    )
    group.add_argument(
        "--omega_first",
        type=number(1e-3, 1e4),
        default=argparse.SUPPRESS,
        metavar="W",
        help="frequency of the first layer at the start: its initial weights are multiplied by "
        "omega_first / omega_0 (default: omega_0; tuned: 100, inpaint 10, edit and poisson with "
        "exact derivatives 45 and 30, for 256 x 256, and more for larger pictures, by the cube "
        "root of the side)",
    )
    group.add_argument(
        "--hidden_features",
        type=integer(1, 2**16),
        default=256,
        metavar="N",
        help="units per layer",
    )
    group.add_argument(
        "--hidden_layers",
        type=integer(0, 1000),
        default=3,
        metavar="N",
        help="sine layers after the first one",
    )


def _add_machine(group):
    group.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="auto: an NVIDIA GPU if there is a working one, else the CPU",
    )
    group.add_argument(
        "--engine",
        choices=ENGINES,
        default="fused",
        help="fused: kernels written for this network, for CPU and GPU; reference: plain Jittor "
        "operations (slow)",
    )
    group.add_argument(
        "--precision",
        choices=("auto", "fp32", "fp16", "bf16"),
        default="auto",
        help="precision of the fused engine's matrix products on a GPU. fp16: 11 bits, as TF32, "
        "at twice its speed; bf16: 8 bits; auto: fp16 on a GPU, fp32 on a CPU",
    )
    group.add_argument(
        "--verbose",
        action="store_true",
        default=argparse.SUPPRESS,
        help="show Jittor's own messages, and the traceback of an error",
    )
