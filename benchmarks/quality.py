"""Quality and time of both recipes, on and between the training pixels, beside classical methods.

Every run is one call of main.py in a process of its own, and most figures are those of its
metrics.json. *Between* is the PSNR of the network drawn with 2n - 1 pixels for every n of a side,
so that every other one is a training coordinate. The reference is the photograph read at that size;
for edit it is the direct solution for both photographs read at that size. *Spline* is the same for
a cubic spline through the training pixels, or through the direct solution. A photograph of fewer
than 2n - 1 pixels is enlarged to them; a dash: it has no more than n.

That reference is up to half of its pixels away from the training pixels, because resizing keeps the
edges of a picture in place and not the centers of its outermost pixels. With --registered, all are
drawn instead at the centers of the pixels of the photograph read at 2n by 2n, except the outermost.

``--pareto 50 384x22 512x50`` is the other table: what the tuned recipe's passes buy, with its own
width or with so many units, in means over the images. Each row is one call of main.py.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.interpolate import RectBivariateSpline

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ("camera.png", "astronaut.jpg", "coffee.jpg", "chelsea.png", "flower.jpg")
OTHER = "rocket.jpg"
TASKS = ("fit", "poisson", "edit", "inpaint")
BASELINES = ("direct", "linear", "cubic", "thin_plate", "edge_enhancing")


@dataclass(frozen=True)
class Run:
    """What one run of main.py reached; figures in dB are None where there is none.

    units    of a hidden layer
    epochs   passes through all training points
    between  PSNR between the pixels
    spline   the same, of a cubic spline
    """

    image: str
    recipe: str
    seed: int
    units: int
    epochs: int
    psnr: float
    between: float | None
    spline: float | None
    ssim: float | None
    seconds: float
    baselines: dict[str, float]


def run(task: str, recipe: str, seed: int, images, other, extra, registered: bool) -> list[Run]:
    """Run main.py once on all ``images``; raises CalledProcessError if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "main.py"), "--task", task, "--recipe", recipe]
        command += ["--seed", str(seed), "--output_dir", folder, "--input_path", *map(str, images)]
        if task == "edit":
            command += ["--ot_image_path", str(other)]
        subprocess.run([*command, *extra], check=True, stdout=subprocess.DEVNULL)
        written = sorted(path.parent for path in Path(folder).rglob("metrics.json"))
        return [read_run(one, other, registered) for one in written]


def read_run(folder: Path, other: Path, registered: bool) -> Run:
    """What the run in ``folder`` reached; ``other`` is the second image of edit."""
    metrics = json.loads((folder / "metrics.json").read_text())
    options = metrics["options"]
    paths = [Path(options["input_path"])] + [other] * (options["task"] == "edit")
    between, spline = score_between(metrics, paths, folder, registered)
    return Run(
        paths[0].stem,
        options["recipe"],
        options["seed"],
        options["hidden_features"],
        metrics["epochs"],
        float(metrics["psnr"]),
        between,
        spline,
        metrics["ssim"],
        metrics["seconds"],
        {name: float(score["psnr"]) for name, score in metrics["baselines"].items()},
    )


# ---- between the pixels ----------------------------------------------------------------------


def score_between(metrics: dict, paths: list[Path], folder: Path, registered: bool):
    """PSNR between the pixels of the network in ``folder``, and of a cubic spline; or two Nones."""
    from siren.images import decode_image
    from siren.metrics import psnr
    from siren.tasks.task import match_mean

    options = metrics["options"]
    shape = metrics["height"], metrics["width"]
    finer = tuple(2 * n if registered else 2 * n - 1 for n in shape)
    sizes = [decode_image(path, 1).size for path in paths]
    if options["task"] == "inpaint" or options.get("mask_path"):
        return None, None
    if any(have <= n for size in sizes for have, n in zip(size, shape)):
        return None, None

    reference = reference_picture(options, paths, finer)
    margin = (0.0, 0.0)  # from the border to the first point drawn, in training pixels
    if registered:
        reference, margin = reference[1:-1, 1:-1], (0.25, 0.25)
    crop = [m * 2 / (n - 1) - 1 for m, n in zip(margin, shape)]
    network = draw(folder, reference.shape[:2], (*crop, -crop[0], -crop[1]))
    spline = draw_spline(reference_picture(options, paths, shape), reference.shape[:2], margin)
    if options["task"] != "fit":  # a derivative does not determine the mean
        network, spline = (match_mean(picture, reference) for picture in (network, spline))
    return psnr(network, reference), psnr(spline, reference)


def reference_picture(options: dict, paths: list[Path], size) -> np.ndarray:
    """What a network should show at ``size`` (height, width): a photograph or a direct solution.

    Pixel units need no care: a field of finer pixels has smaller differences, and more of them.
    """
    from siren.images import read_image
    from siren.tasks.edit import Edit

    photographs = [read_image(path, options["channels"], size) for path in paths]
    if options["task"] != "edit":
        return photographs[0]
    return Edit(*photographs, "fd", options["blend"], options["alpha"]).reference


def draw(folder: Path, size, crop) -> np.ndarray:
    """The network saved in ``folder``, on a grid of ``size`` (height, width) over ``crop``."""
    import siren
    from siren.engine.workload import Workload
    from siren.training.evaluation import evaluate_strips

    siren.start("auto")
    saved = siren.read_network(folder / "network.npz")
    network = siren.Siren.from_layers(saved.layers, saved.omega_0)
    sizes = network.hidden_features, network.hidden_layers, network.out_features
    engine = siren.get_engine("fused", workload=Workload("fp32", *sizes, losses=()))
    strips = evaluate_strips(network, engine, size, order=0, crop=crop)
    return np.concatenate([streams[0] for _, streams in strips])


def draw_spline(image: np.ndarray, size, margin) -> np.ndarray:
    """The cubic spline through ``image`` on a grid of ``size`` within a ``margin`` in pixels."""
    nodes = [np.arange(n) for n in image.shape[:2]]
    points = [np.linspace(m, n - 1 - m, k) for m, n, k in zip(margin, image.shape, size)]
    channels = np.moveaxis(image, 2, 0)
    return np.stack([RectBivariateSpline(*nodes, c, s=0)(*points) for c in channels], axis=2)


# ---- tables ----------------------------------------------------------------------------------


def cell(runs: list[Run], field: str, form: str = ".2f") -> str:
    """The mean of a field of ``runs`` where it is known, and of how many if not of all."""
    known = [value for one in runs if (value := getattr(one, field)) is not None]
    partly = f" ({len(known)} of {len(runs)})" if 0 < len(known) < len(runs) else ""
    return format(statistics.fmean(known), form) + partly if known else "–"


def table_row(name: str, recipe: str, runs: list[Run], baselines: list[str]) -> list[str]:
    """One row: the means over ``runs``."""
    scores = [statistics.fmean(one.baselines[baseline] for one in runs) for baseline in baselines]
    return [
        name,
        recipe,
        cell(runs, "epochs", ".0f"),
        cell(runs, "psnr"),
        cell(runs, "between"),
        cell(runs, "spline"),
        cell(runs, "ssim", ".3f"),
        cell(runs, "seconds", ".0f"),
        *("exact" if score > 120 else f"{score:.2f}" for score in scores),  # float32 rounds at 150
    ]


def make_table(runs: list[Run]) -> str:
    """Markdown with one row for each image and recipe, and one mean for each recipe."""
    baselines = [name for name in BASELINES if name in runs[0].baselines]
    head = ["image", "recipe", "passes", "PSNR", "between", "spline between", "SSIM"]
    rows = [[*head, "seconds", *baselines]]
    for recipe in dict.fromkeys(one.recipe for one in runs):
        chosen = [one for one in runs if one.recipe == recipe]
        for image in dict.fromkeys(one.image for one in chosen):
            same = [one for one in chosen if one.image == image]
            rows.append(table_row(image, recipe, same, baselines))
        rows.append(table_row("**mean**", recipe, chosen, baselines))
    return markdown(rows)


def pareto_table(task: str, sizes: list[str], options: argparse.Namespace) -> str:
    """Markdown with one row for each of ``sizes``: means over the images, seconds the median."""
    rows = [["units", "passes", "seconds", "PSNR", "between", "spline between"]]
    for size in sizes:
        units, _, passes = size.rpartition("x")
        extra = ["--epochs", passes, *(["--hidden_features", units] if units else [])]
        extra += options.extra
        runs = []
        for seed in options.seeds:
            runs += run(
                task, "tuned", seed, options.images, options.other, extra, options.registered
            )
        seconds = statistics.median(one.seconds for one in runs)
        scores = [cell(runs, field) for field in ("psnr", "between", "spline")]
        chosen = "/".join(str(units) for units in sorted({one.units for one in runs}))
        rows.append([chosen, passes, f"{seconds:.3g}", *scores])
        print(f"# {task} {size}: {rows[-1]}", file=sys.stderr, flush=True)
    return markdown(rows)


def markdown(rows: list[list[str]]) -> str:
    """A table of ``rows``, of which the first is the head."""
    rows = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def find_image(name: str) -> Path:
    """The path ``name``, or else the file of that name in data/."""
    return Path(name) if Path(name).exists() else ROOT / "data" / name


def main() -> None:
    """Run everything asked for and print one table a task."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--recipes", nargs="+", choices=("report", "tuned"), default=["tuned"])
    parser.add_argument("--images", nargs="+", default=IMAGES, help="files, or names in data/")
    parser.add_argument("--other", default=OTHER, help="edit: the second image")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="means are over all")
    parser.add_argument("--registered", action="store_true", help="see above")
    parser.add_argument("--pareto", nargs="+", metavar="[UNITSx]PASSES", help="see above")
    parser.add_argument("extra", nargs="*", help="after --: more options for main.py")
    options = parser.parse_args()
    options.images = [find_image(name) for name in options.images]
    options.other = find_image(options.other)
    sys.path.insert(0, str(ROOT))  # for siren
    for task in options.tasks:
        table = (
            pareto_table(task, options.pareto, options)
            if options.pareto
            else make_table(list(every_run(task, options)))
        )
        print(f"\n### {task}\n\n{table}", flush=True)


def every_run(task: str, options: argparse.Namespace):
    """Each image by each recipe and with each seed, in a process of its own."""
    for recipe in options.recipes:
        for image in options.images:
            for seed in options.seeds:
                extra, registered = options.extra, options.registered
                [one] = run(task, recipe, seed, [image], options.other, extra, registered)
                print(f"# {task} {one}", file=sys.stderr, flush=True)
                yield one


if __name__ == "__main__":
    main()
