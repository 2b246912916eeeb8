"""The options of the command line: their ranges, their defaults, and which go together."""

from __future__ import annotations

import argparse
import dataclasses
import math
from pathlib import Path

from siren import recipes
from siren.engine import ENGINES

ROOT = Path(__file__).resolve().parent.parent
TASKS = ("fit", "poisson", "edit", "inpaint", "render")
DEFAULT_INPUT = {"fit": "camera.png", "poisson": "camera.png", "edit": "camera.png"}
DEFAULT_INPUT["inpaint"] = "flower.jpg"
DEFAULT_OTHER = "rocket.jpg"

BAD_INPUT = 2  # exit status


class Parser(argparse.ArgumentParser):
    """Ends with one sentence instead of the usage lines."""

    def error(self, message):
        """Print ``message`` and leave with status 2."""
        self.exit(BAD_INPUT, f"{self.prog}: error: {message} (see --help)\n")


def parse(arguments: list[str]) -> argparse.Namespace:
    """Options with every default filled in; leaves with status 2 on a bad one.

    ``input_path`` is a list of files and folders.
    """
    parser = Parser(
        prog="main.py",
        description="Train a SIREN (sine-activated coordinate network) on an image.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    group = parser.add_argument_group("what to do")
    group.add_argument("-h", "--help", action="help", help="show this and leave")
    group.add_argument(
        "--task",
        choices=TASKS,
        default="fit",
        help="fit: learn every pixel; poisson: learn from the Laplacian alone; edit: blend the "
        "gradients of two images; inpaint: fill in an image from a few random pixels; render: draw "
        "a trained network at any size",
    )
    group.add_argument(
        "--recipe",
        choices=recipes.NAMES,
        default="report",
        help="defaults of the options below. report: the course report's; tuned: what we know to "
        "be better, in a tenth of the steps",
    )
    group.add_argument(
        "--input_path",
        type=Path,
        nargs="+",
        action="extend",
        metavar="IMG",
        default=argparse.SUPPRESS,
        help="image file (PNG, JPEG, WebP, BMP, TIFF, GIF), or a folder of them; of several, each "
        "has its own folder in --output_dir, and summary.csv compares them (default: "
        "data/camera.png; inpaint: data/flower.jpg)",
    )
    group.add_argument(
        "--ot_image_path",
        type=Path,
        metavar="IMG",
        default=argparse.SUPPRESS,
        help="second image of edit, resized to (each) first one (default: data/rocket.jpg, where "
        "--input_path is not given either)",
    )
    group.add_argument(
        "--mask_path",
        type=Path,
        metavar="IMG",
        default=None,
        help="inpaint: white where pixels are missing, instead of --points random ones that are "
        "given; edit: white where the second image is cloned into the first",
    )
    group.add_argument(
        "--offset",
        type=integer(-16384, 16384),
        nargs=2,
        default=(0, 0),
        metavar=("ROWS", "COLS"),
        help="edit with --mask_path: how far the second image and the mask are moved, in pixels",
    )
    group.add_argument(
        "--output_dir",
        type=Path,
        metavar="DIR",
        default=argparse.SUPPRESS,
        help="folder for the results, created if missing (default: outputs/<task>)",
    )

    group = parser.add_argument_group("render")
    group.add_argument(
        "--network_path",
        type=Path,
        metavar="NPZ",
        default=argparse.SUPPRESS,
        help="the network.npz of an earlier run (default: outputs/fit/network.npz)",
    )
    group.add_argument(
        "--crop",
        type=number(at_least=-1, at_most=1),
        nargs=4,
        default=argparse.SUPPRESS,
        metavar=("ROW0", "COL0", "ROW1", "COL1"),
        help="the part to draw, in coordinates: the whole picture is -1 -1 1 1, which is the "
        "default; --sidelength is that of the part",
    )
    group.add_argument(
        "--derivatives",
        action="store_true",
        default=argparse.SUPPRESS,
        help="draw the gradient's magnitude and the Laplacian too",
    )

    group = parser.add_argument_group("image")
    group.add_argument(
        "--channels",
        type=integer(1),
        choices=(1, 3),
        default=1,
        help="1: gray, 3: colour",
    )
    group.add_argument(
        "--sidelength",
        type=integer(8, 16384),
        default=256,
        metavar="PIXELS",
        help="the image is resized to this many pixels a side",
    )
    group.add_argument(
        "--aspect",
        choices=("square", "keep"),
        default="square",
        help="square: both sides are --sidelength; keep: the longer one is",
    )
    group.add_argument(
        "--points",
        type=integer(1),
        default=5000,
        metavar="PIXELS",
        help="inpaint: how many random pixels are given",
    )

    group = parser.add_argument_group("training")
    group.add_argument(
        "--epochs",
        type=integer(1),
        default=argparse.SUPPRESS,
        metavar="N",
        help="training steps (default: 1000; tuned: 100, inpaint 200)",
    )
    group.add_argument(
        "--batch_points",
        type=integer(1),
        default=None,
        metavar="N",
        help="points that a step looks at: N random ones, spread evenly, instead of all",
    )
    group.add_argument(
        "--optimizer",
        choices=("adam", "muon"),
        default=argparse.SUPPRESS,
        help="muon: Muon on the hidden matrices, Adam on the rest (default: adam; tuned: muon)",
    )
    group.add_argument(
        "--lr",
        type=number(above=0),
        default=argparse.SUPPRESS,
        metavar="RATE",
        help="learning rate of Adam (default: 0.0001; tuned: 0.001)",
    )
    group.add_argument(
        "--muon_lr",
        type=number(above=0),
        default=5e-3,
        metavar="RATE",
        help="learning rate of Muon",
    )
    group.add_argument(
        "--schedule",
        choices=("constant", "linear", "cosine"),
        default=argparse.SUPPRESS,
        help="of both learning rates over the run; linear and cosine end at 0 (default: constant; "
        "tuned: linear)",
    )
    group.add_argument(
        "--operator",
        choices=("forward", "autograd", "fd"),
        default=argparse.SUPPRESS,
        help="poisson and edit: how the network is differentiated. forward: exact, derivatives "
        "carried forward; autograd: exact, by jittor.grad (slow); fd: finite differences "
        "(default: forward; tuned: fd)",
    )
    group.add_argument(
        "--residual_norm",
        choices=("operator", "energy", "pixel"),
        default=argparse.SUPPRESS,
        help="poisson and edit: how the residual is measured. operator: as it is; energy, pixel: "
        "as the error of the gradient or of the pixels that it stands for (default: operator; "
        "tuned: pixel)",
    )
    group.add_argument(
        "--prior",
        choices=("none", "tv"),
        default=argparse.SUPPRESS,
        help="fit and inpaint: tv adds --prior_weight times the total variation of the picture "
        "(default: none; tuned: tv for inpaint)",
    )
    group.add_argument(
        "--prior_weight", type=number(above=0), default=5e-4, metavar="W", help="weight of --prior"
    )
    group.add_argument(
        "--hold_out",
        type=number(at_least=0, at_most=0.9),
        default=argparse.SUPPRESS,
        metavar="SHARE",
        help="inpaint: share of the given pixels that choose the best epoch instead of being "
        "trained on (default: 0; tuned: 0.05)",
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
        type=number(at_least=0, at_most=1),
        default=0.5,
        metavar="SHARE",
        help="edit: share of the first image, 0 to 1 (mixed: in the mean brightness only)",
    )
    group.add_argument(
        "--preview_every",
        type=integer(0),
        default=0,
        metavar="K",
        help="refresh preview.png after every K epochs, and make training.gif of them at the end; "
        "0: neither",
    )
    group.add_argument(
        "--resume",
        action="store_true",
        help="continue the interrupted run in --output_dir, given the same options, to the same "
        "network; of several images, those that are done are skipped",
    )
    group.add_argument(
        "--seed",
        type=integer(0, 2**31 - 1),
        default=0,
        metavar="N",
        help="of the network's initial weights and of the pixels given to inpaint",
    )

    group = parser.add_argument_group("network")
    group.add_argument(
        "--omega_0",
        type=number(above=0),
        default=argparse.SUPPRESS,
        metavar="W",
        help="frequency of the sine activations sin(omega_0 z) (default: 30; tuned: 10 for "
        "inpaint)",
    )
    group.add_argument(
        "--hidden_features", type=integer(1), default=256, metavar="N", help="units a layer"
    )
    group.add_argument(
        "--hidden_layers",
        type=integer(0),
        default=3,
        metavar="N",
        help="sine layers after the first one",
    )

    group = parser.add_argument_group("machine")
    group.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="auto: the NVIDIA GPU if a working one is there",
    )
    group.add_argument(
        "--engine",
        choices=ENGINES,
        default="fused",
        help="fused: kernels of our own for CPUs and GPUs; reference: the same in plain Jittor "
        "operations (slow)",
    )
    group.add_argument(
        "--precision",
        choices=("auto", "fp32", "fp16", "bf16"),
        default="auto",
        help="of the fused engine's matrix products on a GPU. fp16 has the 11 bits of TF32 at "
        "twice its speed; bf16 has 8; auto: fp16 there, fp32 on a CPU",
    )
    group.add_argument(
        "--verbose",
        action="store_true",
        default=argparse.SUPPRESS,
        help="show Jittor's own messages",
    )

    options = parser.parse_args(join_negative(arguments), argparse.Namespace(verbose=False))
    given = vars(options)
    if options.task == "edit" and ("input_path" in given) != ("ot_image_path" in given):
        named, missing = "--input_path", "--ot_image_path"
        if "ot_image_path" in given:
            named, missing = missing, named
        parser.error(f"--task edit needs two images: {named} is given, give {missing} too")
    if options.mask_path is not None and options.task not in ("inpaint", "edit"):
        parser.error("--mask_path is for --task inpaint and --task edit; leave it out")
    if any(options.offset) and (options.task != "edit" or options.mask_path is None):
        parser.error("--offset is for --task edit with a --mask_path; leave it out")
    if options.task != "render":
        for name in ("network_path", "crop", "derivatives"):
            if name in given:
                parser.error(f"--{name} is for --task render; add that, or leave it out")
    else:
        given.setdefault("network_path", ROOT / "outputs" / "fit" / "network.npz")
        options.crop = tuple(given.get("crop", (-1.0, -1.0, 1.0, 1.0)))
        given.setdefault("derivatives", False)
        options.output_dir = given.get("output_dir", ROOT / "outputs" / "render")
        row_0, column_0, row_1, column_1 = options.crop
        if not (row_0 < row_1 and column_0 < column_1):
            shown = " ".join(f"{value:g}" for value in options.crop)
            parser.error(f"argument --crop: {shown} is empty; ROW0 < ROW1 and COL0 < COL1 it takes")
        return options
    for name, value in dataclasses.asdict(recipes.recipe(options.recipe, options.task)).items():
        given.setdefault(name, value)
    options.input_path = given.get("input_path", [ROOT / "data" / DEFAULT_INPUT[options.task]])
    options.ot_image_path = given.get("ot_image_path", ROOT / "data" / DEFAULT_OTHER)
    options.output_dir = given.get("output_dir", ROOT / "outputs" / options.task)
    return options


def join_negative(arguments: list[str]) -> list[str]:
    """Write ``--lr -1e-4`` as ``--lr=-1e-4``; argparse would take ``-1e-4`` for an option.

    It knows -1 and -0.5, of which --crop takes four.
    """
    joined: list[str] = []
    for argument in arguments:
        exponent = argument[:1] == "-" and argument[1:2].isdigit() and "e" in argument.lower()
        if joined and exponent:
            joined[-1] += "=" + argument
        else:
            joined.append(argument)
    return joined


def integer(at_least: int, at_most: float = math.inf):
    """Argument type: an integer in a range."""

    def convert(text):
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if not at_least <= value <= at_most:
            limits = f"at least {at_least}"
            if at_most < math.inf:
                limits += f" and at most {at_most}"
            raise argparse.ArgumentTypeError(f"{text} is out of range; it must be {limits}")
        return value

    return convert


def number(above: float = -math.inf, at_least: float = -math.inf, at_most: float = math.inf):
    """Argument type: a finite number in a range."""

    def convert(text):
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if not math.isfinite(value):
            raise argparse.ArgumentTypeError(f"{text} is not finite")
        if value <= above:
            raise argparse.ArgumentTypeError(f"{text} must be greater than {above:g}")
        if not at_least <= value <= at_most:
            raise argparse.ArgumentTypeError(f"{text} must be between {at_least:g} and {at_most:g}")
        return value

    return convert
