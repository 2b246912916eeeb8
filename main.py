"""SIREN on images: command line. Arguments -> task -> training -> files."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
import os
import signal
import sys
import traceback
from pathlib import Path

from siren import recipes, runtime
from siren.engine import ENGINES

ROOT = Path(__file__).resolve().parent
TASKS = ("fit", "poisson", "edit", "inpaint", "render")
DEFAULT_INPUT = {"fit": "camera.png", "poisson": "camera.png", "edit": "camera.png"}
DEFAULT_INPUT["inpaint"] = "flower.jpg"
DEFAULT_OTHER = "rocket.jpg"

FAILED, BAD_INPUT, DIVERGED, INTERRUPTED = 1, 2, 3, 130  # exit statuses


class Problem(Exception):
    """Something that the user can mend; the message is one sentence."""


class Failure(Exception):
    """Something that went wrong with the machine; the message is one sentence."""


class Stop:
    """Within its context, the first Ctrl-C or SIGTERM is a request, the next one interrupts."""

    SIGNALS = signal.SIGINT, signal.SIGTERM

    def __init__(self):
        self.requested = False

    def __call__(self) -> bool:
        """Was it asked for?"""
        return self.requested

    def __enter__(self):
        """Take the signals over."""
        self.before = [signal.signal(number, self._handle) for number in self.SIGNALS]
        return self

    def __exit__(self, *_):
        """Give them back."""
        for number, handler in zip(self.SIGNALS, self.before):
            signal.signal(number, handler)

    def _handle(self, *_):
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


def main() -> int:
    """Run one experiment; returns the exit status."""
    options = parse(sys.argv[1:])
    status = None
    try:
        status = run_guarded(options)
    finally:
        # A process of several that simply ended would wait for the others, which wait for it.
        if runtime.process_count() > 1 and status not in (0, DIVERGED, INTERRUPTED):
            if status is None:
                traceback.print_exc()
            sys.stderr.flush()
            os._exit(FAILED if status is None else status)
    return status


def run_guarded(options: argparse.Namespace) -> int:
    """Run one experiment; what goes wrong is one sentence and an exit status."""
    try:
        return render(options) if options.task == "render" else run(options)
    except Problem as problem:
        print(f"main.py: error: {problem}", file=sys.stderr)
        return BAD_INPUT
    except (runtime.RuntimeProblem, Failure) as problem:
        print(f"main.py: error: {problem}", file=sys.stderr)
        return FAILED
    except MemoryError:
        print("main.py: error: not enough memory; try a smaller --sidelength", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("main.py: interrupted before training; nothing was written", file=sys.stderr)
        return INTERRUPTED


def run(options: argparse.Namespace) -> int:
    """Check the input, then train and save."""
    from siren.checkpoint import FolderInUse, locked
    from siren.files import remove_unfinished

    inputs = list(read_inputs(options))
    if runtime.process_number() > 0:  # the first one writes, and talks
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for good)
        return run_locked(options, inputs)
    with contextlib.ExitStack() as stack:
        open_output(stack, options)
        try:
            stack.enter_context(locked(options.output_dir))
        except FolderInUse as error:
            raise Problem(f"--output_dir: {error}; name another folder, or wait") from error
        remove_unfinished(options.output_dir)
        return run_locked(options, inputs)


def run_locked(options: argparse.Namespace, inputs: list) -> int:
    """Train and save, in an output folder that no other run uses; empties ``inputs``."""
    device = runtime.start(options.device, options.verbose)
    import jittor

    from siren import checkpoint, ranks, training
    from siren import optimizer as optimizers
    from siren.engine import choose
    from siren.network import Siren
    from siren.preview import Preview
    from siren.tasks import only_train

    on_gpu = bool(jittor.flags.use_cuda)
    if options.precision == "auto":
        options.precision = "fp16" if on_gpu else "fp32"
    elif options.precision != "fp32" and not on_gpu:
        raise Problem(
            f"--precision {options.precision} is for a GPU; leave it out, or find out with "
            "--device cuda why there is none"
        )
    engine = choose(options.engine, options.precision)
    jittor.set_global_seed(options.seed, different_seed_for_mpi=False)
    task = make_task(options, *inputs)
    height, width = inputs[0].shape[:2]
    inputs.clear()
    batch = make_batch(options, len(task.points))
    network = Siren(
        out_features=options.channels,
        hidden_features=options.hidden_features,
        hidden_layers=options.hidden_layers,
        omega_0=options.omega_0,
    )
    print(
        f"{options.task}: {shown_path(options.input_path)} at {height} x {width}, "
        f"{len(task.points)} points, {options.epochs} epochs, device {device}",
        flush=True,
    )
    if options.optimizer == "muon":
        optimizer = optimizers.Muon(network, engine, options.muon_lr, options.lr)
    else:
        optimizer = optimizers.Adam([network.flat], options.lr)
    schedule = getattr(optimizers, options.schedule)
    ours = checkpoint.Checkpoint(options.output_dir, identity(options, device, task))
    names = ranks.disagreements({**ours.identity, "resume": options.resume})
    if names:
        what = "the image" if names == ["data"] else "--" + ", --".join(names)
        raise Problem(f"the processes do not agree on {what}; start all of them with the same")
    if ranks.number() > 0:
        only_train(task, ranks.share(len(task.points)))
    if options.resume:
        try:
            ours.state = ours.load(
                ranks.of_the_first(ours.content() if not ranks.number() else b"")
            )
        except checkpoint.StateError as error:
            raise Problem(f"--resume: {error}; leave it out to start anew") from error
        print(f"resumed at epoch {ours.state.epoch}", flush=True)
    elif ours.path.exists():
        print(f"{shown_path(ours.path)} is of an interrupted run, which --resume would continue")
    preview = None
    if options.preview_every:
        preview = Preview(options.output_dir, options.preview_every)
    with Stop() as stop:
        try:
            result = training.train(
                network,
                task,
                engine,
                options.epochs,
                optimizer,
                schedule,
                ours,
                stop,
                preview,
                batch,
            )
        except RuntimeError:
            if stop.requested:  # Jittor's compiler was interrupted too
                raise KeyboardInterrupt from None
            raise
    if ranks.number() > 0:
        return 0  # which waits for the first one
    if result.best is None:
        if result.ended == "interrupted":
            raise KeyboardInterrupt
        raise Problem(f"--lr {options.lr:g} gives no finite loss at all; try a smaller one")
    with writing(options):
        save(options, task, network, engine, result, preview)
        if result.ended != "interrupted":
            ours.remove()

    if result.ended == "diverged":
        print(
            f"main.py: warning: the loss was not finite after {result.history[-1].epoch + 1} "
            f"epochs; saved is the network of epoch {result.best.epoch}; try a smaller --lr",
            file=sys.stderr,
        )
        return DIVERGED
    if result.ended == "interrupted":
        how = "; --resume goes on" if ours.path.exists() else ""
        print(
            f"main.py: interrupted; saved is the network of epoch {result.best.epoch}{how}",
            file=sys.stderr,
        )
        return INTERRUPTED
    return 0


def identity(options: argparse.Namespace, device: str, task) -> dict:
    """All that a run's network depends on, as JSON can hold it."""
    from siren.checkpoint import fingerprint

    ignored = ("output_dir", "verbose", "resume", "device", "preview_every")
    names = [name for name in vars(options) if name not in ignored]
    held_out = [] if task.held_out is None else task.held_out.arrays()
    data = fingerprint(task.reference, *task.points.arrays(), *held_out)
    return {
        **{name: printable(getattr(options, name)) for name in names},
        "device": device,
        "data": data,
    }


def save(options: argparse.Namespace, task, network, engine, result, preview) -> None:
    """Score the network's picture and write the output folder; raises OSError."""
    from siren import report, training
    from siren.metrics import psnr, ssim
    from siren.pictures import Picture
    from siren.preview import write_curves

    folder = options.output_dir
    height, width = task.reference.shape[:2]
    output = task.restore(training.picture(network, engine, (height, width)))

    def scores(image):
        mask = task.scored
        return {
            "psnr": psnr(image, task.reference, mask=mask),
            "ssim": ssim(image, task.reference, mask=mask),
        }

    score = scores(output)
    baselines = task.baselines()
    baseline_scores = {name: scores(image) for name, image in baselines}
    held_out = "" if task.scored is None else " on held-out pixels"
    summary = f"output: PSNR {score['psnr']:.2f} dB, SSIM {score['ssim']:.3f}{held_out}"
    others = [
        Picture(f"{name}: PSNR {baseline_scores[name]['psnr']:.2f} dB", image)
        for name, image in sorted(baselines, key=lambda item: baseline_scores[item[0]]["psnr"])
        if image is not task.reference  # which is shown already
    ]

    report.write_pictures(folder, task, output, summary, others[-1:])
    if task.derivatives:
        report.write_derivatives(folder, *training.derivatives(network, engine, (height, width)))
    report.write_history(folder, result.history)
    curves = write_curves(folder, result.history)
    if preview is not None:
        preview.finish(output)
    report.write_network(folder, network, (height, width))
    report.write_metrics(
        folder,
        {
            "options": {name: printable(value) for name, value in vars(options).items()},
            "height": height,
            "width": width,
            "points": len(task.points),
            "ended": result.ended,
            "epochs": result.history[-1].epoch,
            "best_epoch": result.best.epoch,
            "best_by": "loss" if result.best.validation is None else "validation loss",
            "validation": result.best.validation,
            "loss": result.best.loss,
            **score,
            "baselines": baseline_scores,
            "scored": {
                "fit": "all pixels against the image",
                "poisson": "all pixels against the image, mean restored",
                "edit": "all pixels against the direct solution, mean restored",
                "inpaint": "the pixels not given, against the image",
            }[options.task],
            "seconds": result.history[-1].seconds,
            "seconds_first_epoch": result.history[0].seconds,
            "runtime": dataclasses.asdict(runtime.describe()),
        },
    )
    report.remove_leftovers(folder, task, preview is not None, curves)
    print(f"{summary}; loss {result.best.loss:.3e} at epoch {result.best.epoch}")
    for name, baseline in baseline_scores.items():
        print(f"{name}: PSNR {baseline['psnr']:.2f} dB, SSIM {baseline['ssim']:.3f}")
    print(f"written to {shown_path(folder)}")


def render(options: argparse.Namespace) -> int:
    """Draw a trained network at any size."""
    if runtime.process_count() > 1:
        raise Problem("--task render draws in one process; start it without mpirun")
    from siren import report
    from siren.images import write_png

    try:
        saved = report.read_network(options.network_path)
    except report.NetworkError as error:
        raise Problem(f"--network_path: {error}") from error
    channels = len(saved.layers[-1][1])
    if channels not in (1, 3):
        raise Problem(
            f"--network_path {options.network_path} has {channels} outputs; only 1 (gray) and 3 "
            "(colour) can be drawn"
        )
    with contextlib.ExitStack() as stack:
        open_output(stack, options)
        runtime.start(options.device, options.verbose)
        from siren import rendering
        from siren.engine import choose
        from siren.network import Siren

        engine = choose(options.engine)
        network = Siren.of(saved.layers, saved.omega_0)
        shape = rendering.view_shape(saved.shape, options.crop, options.sidelength)
        print(f"render: {shown_path(options.network_path)} at {shape[0]} x {shape[1]}", flush=True)
        drawn = {"output.png": rendering.render(network, engine, shape, options.crop)}
        if options.derivatives:
            names = "gradient.png", "laplacian.png"
            both = rendering.render_derivatives(network, engine, shape, options.crop)
            drawn.update(zip(names, both))
        with writing(options):
            for name, picture in drawn.items():
                write_png(options.output_dir / name, picture)
    print(f"written to {shown_path(options.output_dir)}")
    return 0


def read_inputs(options: argparse.Namespace):
    """The input image, the second one of edit, and the mask, or None where there is none.

    Images are (height, width, channels) float32, the mask (height, width) bool.
    """
    from siren import images

    def read(option, path, size=None):
        try:
            if size is None:
                size = images.fit_size(*images.image_size(path), options.sidelength, options.aspect)
            return images.read_image(path, options.channels, size)
        except images.ImageError as error:
            raise Problem(f"{option}: {error}") from error

    image = read("--input_path", options.input_path)
    pixels = image.shape[0] * image.shape[1]
    mask = None
    if options.mask_path is not None:
        mask = read("--mask_path", options.mask_path, image.shape[:2])[..., 0] > 0
        if mask.all() or not mask.any():
            shade = "white" if mask.all() else "black"
            raise Problem(f"--mask_path {options.mask_path} is {shade} everywhere")
    elif options.task == "inpaint" and options.points >= pixels:
        raise Problem(
            f"--points {options.points} leaves none of the {pixels} pixels to fill in; "
            "give fewer, or a larger --sidelength"
        )
    other = None
    if options.task == "edit":
        other = read("--ot_image_path", options.ot_image_path, image.shape[:2])
    return image, other, mask


def open_output(stack: contextlib.ExitStack, options: argparse.Namespace) -> None:
    """Find out early if the output folder can be written; it exists within ``stack``."""
    from siren.files import writable

    try:
        stack.enter_context(writable(options.output_dir))
    except OSError as error:
        reason = error.strerror or error
        raise Problem(
            f"--output_dir {options.output_dir} cannot be written ({reason}); name another folder"
        ) from error


@contextlib.contextmanager
def writing(options: argparse.Namespace):
    """Within its context, what cannot be written is a failure of the machine."""
    try:
        yield
    except OSError as error:
        raise Failure(
            f"the results could not be written to {options.output_dir} ({error.strerror or error})"
        ) from error


def make_task(options: argparse.Namespace, image, other, mask):
    """The experiment that ``--task`` names."""
    from siren.priors import TotalVariation

    prior = None
    if options.prior == "tv":
        prior = TotalVariation(options.prior_weight, options.seed)
    if options.task == "fit":
        from siren.tasks.fit import Fit

        return Fit(image, prior)
    if options.task == "poisson":
        from siren.tasks.poisson import Poisson

        return Poisson(image, options.operator, options.residual_norm)
    if options.task == "edit":
        from siren.tasks.edit import Edit

        return Edit(
            image,
            other,
            options.operator,
            options.blend,
            options.alpha,
            options.residual_norm,
            mask,
            tuple(options.offset),
        )
    from siren.tasks.inpaint import Inpaint

    return Inpaint(image, options.points, options.seed, prior, options.hold_out, mask)


def make_batch(options: argparse.Namespace, count: int):
    """What ``--batch_points`` means for ``count`` points: None for all of them."""
    from siren.points import Batch

    if options.batch_points is None:
        return None
    if options.batch_points > count:
        raise Problem(
            f"--batch_points {options.batch_points} is more than the {count} points that are "
            "trained on; leave it out, which takes them all"
        )
    return Batch(options.batch_points, options.seed)


# ---- arguments ------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """Ends with one sentence instead of the usage lines."""

    def error(self, message):
        """Print ``message`` and leave with status 2."""
        self.exit(BAD_INPUT, f"{self.prog}: error: {message} (see --help)\n")


def parse(arguments: list[str]) -> argparse.Namespace:
    """Options with every default filled in; leaves with status 2 on a bad one."""
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
        metavar="IMG",
        default=argparse.SUPPRESS,
        help="image file (PNG, JPEG, WebP, BMP, TIFF, GIF) (default: data/camera.png; "
        "inpaint: data/flower.jpg)",
    )
    group.add_argument(
        "--ot_image_path",
        type=Path,
        metavar="IMG",
        default=argparse.SUPPRESS,
        help="second image of edit, resized to the first (default: data/rocket.jpg, where "
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
        "network",
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
    options.input_path = given.get("input_path", ROOT / "data" / DEFAULT_INPUT[options.task])
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


def shown_path(path: Path) -> str:
    """``path`` relative to the program where it lies inside it."""
    try:
        return str(path.resolve().relative_to(ROOT))
    except ValueError:
        return str(path)


def printable(value):
    """An option's value as JSON can hold it."""
    if isinstance(value, tuple):
        return list(value)
    return shown_path(value) if isinstance(value, Path) else value


if __name__ == "__main__":
    sys.exit(main())
