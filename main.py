"""SIREN on images: command line. Arguments -> task -> training -> files."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import pickle
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from siren import runtime
from siren.options import BAD_INPUT, ROOT, parse

if TYPE_CHECKING:
    import numpy as np

FAILED, DIVERGED, INTERRUPTED = 1, 3, 130  # exit statuses, beside 0 and BAD_INPUT


class Problem(Exception):
    """Something that the user can mend; the message is one sentence."""


class Failure(Exception):
    """Something that went wrong with the machine; the message is one sentence."""


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The pictures of a run: (height, width, channels) float32, the mask (height, width) bool.

    other  the second one of edit, or None
    mask   or None
    bits   8 or 16, the depth that the results deserve
    """

    image: np.ndarray
    other: np.ndarray | None
    mask: np.ndarray | None
    bits: int

    def fingerprint(self) -> str:
        """A hash of all of them."""
        from siren.checkpoint import fingerprint

        pictures = (self.image, self.other, self.mask)
        return fingerprint(*(picture for picture in pictures if picture is not None))


@dataclasses.dataclass(frozen=True)
class Origin:
    """What is remembered of ``Inputs`` that are not kept: their hash, and the depth in bits."""

    fingerprint: str
    bits: int


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a run.

    status   its exit status
    ended    as ``training.Training`` has it, or why there was no training
    psnr, ssim, seconds  of its result, in dB and of training; None where there is none
    """

    status: int
    ended: str
    psnr: float | None = None
    ssim: float | None = None
    seconds: float | None = None


EXPECTED = (Problem, Failure, runtime.RuntimeProblem, MemoryError)


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
    """Run what the command line asks for; returns the exit status."""
    options = parse(sys.argv[1:])
    if runtime.process_number() > 0:  # the first one writes, and talks
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for good)
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
    """Run what is asked for; what goes wrong is one sentence and an exit status."""
    try:
        if options.task == "render":
            return render(options)
        runs = runs_of(options)
        return run(runs[0]).status if len(runs) == 1 else run_several(options, runs)
    except EXPECTED as error:
        return explained(error).status
    except KeyboardInterrupt:
        print("main.py: interrupted before training; nothing was written", file=sys.stderr)
        return INTERRUPTED


def explained(error: Exception, subject: str = "") -> Outcome:
    """The outcome of a run that ended in one of ``EXPECTED``, after telling the user."""
    sentence = str(error)
    if isinstance(error, MemoryError):
        sentence = "not enough memory; try a smaller --sidelength"
    print(f"main.py: error: {subject}{sentence}", file=sys.stderr)
    return Outcome(BAD_INPUT if isinstance(error, Problem) else FAILED, f"failed: {sentence}")


def runs_of(options: argparse.Namespace) -> list[argparse.Namespace]:
    """The options of one run for each picture; of several, each has a folder of its own."""
    from siren.images import ImageError
    from siren.several import find_pictures, folder_names

    try:
        pictures = find_pictures(options.input_path)
    except ImageError as error:
        raise Problem(f"--input_path: {error}") from error
    if len(pictures) > 1 and runtime.process_count() > 1:
        raise Problem(
            f"--input_path names {len(pictures)} pictures; under mpirun give one at a time"
        )
    folders = [options.output_dir]
    if len(pictures) > 1:
        folders = [options.output_dir / name for name in folder_names(pictures)]
    return [
        argparse.Namespace(**{**vars(options), "input_path": picture, "output_dir": folder})
        for picture, folder in zip(pictures, folders)
    ]


def run_several(options: argparse.Namespace, runs: list[argparse.Namespace]) -> int:
    """Run one after the other, whatever becomes of each, and write a summary of all.

    ``options`` are those of the whole call. Bad input is found before the first one trains.
    """
    from siren import several

    outcomes = [check_ahead(each) for each in runs]
    with output_folder(options):
        start_jittor(options)
        with Stop() as stop:
            for number, each in enumerate(runs):
                if stop():
                    break
                if outcomes[number] is not None:
                    continue
                image = shown_path(each.input_path)
                print(f"== {number + 1} of {len(runs)}: {image}", flush=True)
                try:
                    outcomes[number] = run(each, stop)
                except EXPECTED as error:
                    outcomes[number] = explained(error, f"{image}: ")
                except KeyboardInterrupt:
                    outcomes[number] = Outcome(INTERRUPTED, "interrupted")
                    break
        left = outcomes.count(None)
        outcomes = [outcome or Outcome(INTERRUPTED, "not begun") for outcome in outcomes]
        rows = [
            several.Row(
                shown_path(each.input_path),
                shown(each.output_dir.name),
                each.task,
                outcome.psnr,
                outcome.ssim,
                outcome.seconds,
                shown(outcome.ended),
            )
            for each, outcome in zip(runs, outcomes)
        ]
        print(several.table(rows))
        with writing(options):
            several.write_summary(options.output_dir, rows)
    if left:
        print(f"main.py: {left} of {len(runs)} not begun; --resume goes on", file=sys.stderr)
    statuses = [outcome.status for outcome in outcomes if outcome.status]
    return INTERRUPTED if INTERRUPTED in statuses else (statuses or [0])[0]


def check_ahead(options: argparse.Namespace) -> Outcome | None:
    """Find bad input of one of several runs; returns its outcome if --resume finds it done.

    ``options.resume`` is left true only where there is an interrupted run.
    """
    from siren import checkpoint, report

    inputs = read_inputs(options)
    if not options.resume:
        return None
    asked = asked_for(options)
    if options.precision == "auto":
        del asked["precision"]  # what that means is known only when the device is
    earlier = checkpoint.Checkpoint(options.output_dir, asked)
    options.resume = earlier.path.exists()
    try:
        if options.resume:
            earlier.load()
            return None
        metrics = report.read_metrics(options.output_dir)
        if metrics is None or metrics["ended"] == "interrupted":
            return None
        earlier.identity["data"] = inputs.fingerprint()
        earlier.compare({**metrics["options"], "data": metrics["inputs"]})
    except checkpoint.StateError as error:
        raise Problem(
            f"--resume: {shown_path(options.output_dir)}: {error}; leave it out to start anew"
        ) from error
    return Outcome(
        DIVERGED if metrics["ended"] == "diverged" else 0,
        metrics["ended"],
        metrics["psnr"],
        metrics["ssim"],
        metrics["seconds"],
    )


def run(options: argparse.Namespace, stop: Stop | None = None) -> Outcome:
    """Check the input, then train and save.

    ``stop`` is what looks after signals already, if anything does.
    """
    if runtime.process_number() > 0:
        return run_locked(options, [], stop)
    inputs = [read_inputs(options)]
    with output_folder(options):
        return run_locked(options, inputs, stop)


@contextlib.contextmanager
def output_folder(options: argparse.Namespace):
    """Within its context the output folder exists and no other run uses it."""
    from siren.checkpoint import FolderInUse, locked
    from siren.files import remove_unfinished

    with contextlib.ExitStack() as stack:
        open_output(stack, options)
        try:
            stack.enter_context(locked(options.output_dir))
            remove_unfinished(options.output_dir)
        except FolderInUse as error:
            raise Problem(f"--output_dir: {error}; name another folder, or wait") from error
        except OSError as error:  # a full disk may have room for names, but for no content
            raise unwritable(options, error) from error
        yield


def start_jittor(options: argparse.Namespace) -> str:
    """Import Jittor; returns the device, and decides ``options.precision`` by it."""
    device = runtime.start(options.device, options.verbose)
    if options.precision == "auto":
        options.precision = "fp16" if device == "cuda" else "fp32"
    elif options.precision != "fp32" and device != "cuda":
        raise Problem(
            f"--precision {options.precision} is for a GPU; leave it out, or find out with "
            "--device cuda why there is none"
        )
    return device


def run_locked(options: argparse.Namespace, inputs: list[Inputs], stop: Stop | None) -> Outcome:
    """Train and save, in an output folder that no other run uses.

    The only one of ``inputs`` is taken out, so that its memory is free once the task is made. Where
    there are several processes, only the first one has any.
    """
    device = start_jittor(options)
    import jittor

    from siren import checkpoint, ranks, training
    from siren import optimizer as optimizers
    from siren.engine import choose
    from siren.network import Siren
    from siren.preview import Preview

    engine = choose(options.engine, options.precision)
    jittor.set_global_seed(options.seed, different_seed_for_mpi=False)
    refuse_disagreement(options, device)
    task = origin = None
    if inputs:
        given = inputs.pop()
        origin = Origin(given.fingerprint(), given.bits)
        task = make_task(options, given)
        del given
    task = handed_out(task)
    height, width = task.reference.shape[:2]
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
    depends_on = identity(options, device, task) if ranks.number() == 0 else {}
    depends_on = json.loads(ranks.of_the_first(json.dumps(depends_on).encode()))
    ours = checkpoint.Checkpoint(options.output_dir, depends_on)
    if options.resume:
        try:
            ours.state = ours.load(
                ranks.of_the_first(ours.content() if ranks.number() == 0 else b"")
            )
        except checkpoint.StateError as error:
            raise Problem(f"--resume: {error}; leave it out to start anew") from error
        print(f"resumed at epoch {ours.state.epoch}", flush=True)
    elif ours.path.exists():
        print(f"{shown_path(ours.path)} is of an interrupted run, which --resume would continue")
    preview = None
    if options.preview_every:
        preview = Preview(options.output_dir, options.preview_every)
    with contextlib.nullcontext(stop) if stop else Stop() as stop:
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
            return Outcome(0, result.ended)  # the first one saves
        if result.best is None:
            if result.ended == "interrupted":
                raise KeyboardInterrupt
            raise Problem(f"--lr {options.lr:g} gives no finite loss at all; try a smaller one")
        with writing(options):
            score = save(options, task, origin, network, engine, result, preview)
            if result.ended != "interrupted":
                ours.remove()

    status = 0
    if result.ended == "diverged":
        status = DIVERGED
        print(
            f"main.py: warning: the loss was not finite after {result.history[-1].epoch + 1} "
            f"epochs; saved is the network of epoch {result.best.epoch}; try a smaller --lr",
            file=sys.stderr,
        )
    if result.ended == "interrupted":
        status = INTERRUPTED
        how = "; --resume goes on" if ours.path.exists() else ""
        print(
            f"main.py: interrupted; saved is the network of epoch {result.best.epoch}{how}",
            file=sys.stderr,
        )
    return Outcome(status, result.ended, **score, seconds=result.history[-1].seconds)


def refuse_disagreement(options: argparse.Namespace, device: str) -> None:
    """Raise Problem, in all processes, if they do not have the same options and pictures."""
    from siren import images, ranks

    if ranks.count() == 1:
        return
    facts = {**asked_for(options), "device": device, "resume": options.resume}
    for option in ("input_path", "ot_image_path", "mask_path"):
        path = getattr(options, option)
        if path is None or (option == "ot_image_path" and options.task != "edit"):
            continue
        try:
            facts[f"the picture of --{option}"] = images.content_hash(path)
        except images.ImageError as error:
            raise Problem(f"--{option}: {error}") from error
    names = ranks.disagreements(facts)
    if names:
        what = ", ".join(name if name not in vars(options) else f"--{name}" for name in names)
        raise Problem(f"the processes do not agree on {what}; start all of them with the same")


def handed_out(task):
    """``task`` in the first process; in the others, one that trains on their share of its points.

    These need no pictures for that, and never have more of them than their share.
    """
    import numpy as np

    from siren import ranks
    from siren.tasks import bare

    if ranks.count() == 1:
        return task
    first = ranks.number() == 0
    trained = pickle.loads(ranks.of_the_first(pickle.dumps(bare(task)) if first else b""))
    points = task.points if first else trained.points
    values = ranks.handed_out(points.values)
    pixels = None if points.pixels is None else ranks.handed_out(points.pixels)
    if first:
        return task
    points.give(ranks.share(len(points)), values, pixels)
    channels = values.shape[2]
    trained.reference = np.broadcast_to(np.float32(-1), (*points.shape, channels))  # for its shape
    return trained


def asked_for(options: argparse.Namespace) -> dict:
    """The options that a run's network depends on, as JSON can hold them."""
    ignored = ("output_dir", "verbose", "resume", "device", "preview_every")
    return {name: printable(value) for name, value in vars(options).items() if name not in ignored}


def identity(options: argparse.Namespace, device: str, task) -> dict:
    """All that a run's network depends on, as JSON can hold it."""
    from siren.checkpoint import fingerprint

    held_out = [] if task.held_out is None else task.held_out.arrays()
    data = fingerprint(task.reference, *task.points.arrays(), *held_out)
    return {**asked_for(options), "device": device, "data": data}


def save(options, task, origin: Origin, network, engine, result, preview) -> dict[str, float]:
    """Score the network's picture and write the output folder; raises OSError.

    Returns its "psnr" in dB and its "ssim".
    """
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

    report.write_pictures(folder, task, output, summary, others[-1:], origin.bits)
    if task.derivatives:
        report.write_derivatives(folder, *training.derivatives(network, engine, (height, width)))
    report.write_history(folder, result.history)
    curves = write_curves(folder, result.history)
    if preview is not None:
        preview.finish(output)
    report.write_network(folder, network, (height, width), origin.bits)
    report.write_metrics(
        folder,
        {
            "options": {name: printable(value) for name, value in vars(options).items()},
            "inputs": origin.fingerprint,
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
    return score


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
        drawn = {"output.png": rendering.render(network, engine, shape, options.crop, saved.bits)}
        if options.derivatives:
            names = "gradient.png", "laplacian.png"
            both = rendering.render_derivatives(network, engine, shape, options.crop)
            drawn.update(zip(names, both))
        with writing(options):
            for name, picture in drawn.items():
                write_png(options.output_dir / name, picture)
    print(f"written to {shown_path(options.output_dir)}")
    return 0


def read_inputs(options: argparse.Namespace) -> Inputs:
    """All pictures that ``options`` name, checked."""
    from siren import images

    bits = 8

    def read(option, path, size=None):
        nonlocal bits
        try:
            if size is None:
                size = images.fit_size(*images.image_size(path), options.sidelength, options.aspect)
            if option != "--mask_path":
                bits = max(bits, images.bit_depth(path))
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
    return Inputs(image, other, mask, bits)


def open_output(stack: contextlib.ExitStack, options: argparse.Namespace) -> None:
    """Find out early if the output folder can be written; it exists within ``stack``."""
    from siren.files import writable

    try:
        stack.enter_context(writable(options.output_dir))
    except OSError as error:
        raise unwritable(options, error) from error


def unwritable(options: argparse.Namespace, error: OSError) -> Problem:
    """What to tell where the output folder cannot be written."""
    reason = error.strerror or error
    return Problem(
        f"--output_dir {options.output_dir} cannot be written ({reason}); name another folder"
    )


@contextlib.contextmanager
def writing(options: argparse.Namespace):
    """Within its context, what cannot be written is a failure of the machine."""
    try:
        yield
    except OSError as error:
        raise Failure(
            f"the results could not be written to {options.output_dir} ({error.strerror or error})"
        ) from error


def make_task(options: argparse.Namespace, inputs: Inputs):
    """The experiment that ``--task`` names."""
    from siren.priors import TotalVariation

    image, mask = inputs.image, inputs.mask
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
            inputs.other,
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


def shown_path(path: Path) -> str:
    """``path`` relative to the program where it lies inside it, as text that can be written."""
    with contextlib.suppress(ValueError):
        path = path.resolve().relative_to(ROOT)
    return shown(str(path))


def shown(text: str) -> str:
    """``text`` without what cannot be written, as a file's name may have it."""
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")


def printable(value):
    """An option's value as JSON can hold it."""
    if isinstance(value, tuple):
        return list(value)
    return shown_path(value) if isinstance(value, Path) else value


if __name__ == "__main__":
    sys.exit(main())
