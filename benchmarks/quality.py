"""Quality and time of both recipes over the images in data/, beside the classical baselines.

Every run is one call of main.py in a process of its own; its figures are those of metrics.json.
The report recipe takes about 25 minutes an image on two cores, the tuned one two and a half.
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

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ("camera.png", "astronaut.jpg", "coffee.jpg", "chelsea.png", "flower.jpg")
OTHER = "rocket.jpg"  # the second image of edit
TASKS = ("fit", "poisson", "edit", "inpaint")
BASELINES = ("direct", "nearest", "linear", "cubic", "thin_plate")


@dataclass(frozen=True)
class Run:
    """What one run of main.py reached."""

    image: str
    task: str
    recipe: str
    epochs: int
    psnr: float
    ssim: float
    seconds: float
    baselines: dict[str, float]


def run(image: str, task: str, recipe: str, extra: list[str]) -> Run:
    """Run main.py once; raises CalledProcessError if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "main.py"), "--task", task, "--recipe", recipe]
        command += ["--input_path", str(ROOT / "data" / image), "--output_dir", folder, *extra]
        if task == "edit":
            command += ["--ot_image_path", str(ROOT / "data" / OTHER)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        metrics = json.loads(Path(folder, "metrics.json").read_text())
    return Run(
        Path(image).stem,
        task,
        recipe,
        metrics["epochs"],
        float(metrics["psnr"]),
        metrics["ssim"],
        metrics["seconds"],
        {name: float(score["psnr"]) for name, score in metrics["baselines"].items()},
    )


def table(rows: list[list[str]]) -> str:
    """Rows, the first one the head, as Markdown."""
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Run everything asked for and print one table a task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--recipes", nargs="+", choices=("report", "tuned"), default=["tuned"])
    parser.add_argument("--images", nargs="+", default=IMAGES, help="files in data/")
    parser.add_argument("extra", nargs="*", help="after --: more options for main.py")
    options = parser.parse_args()
    for task in options.tasks:
        runs = []
        for recipe in options.recipes:
            for image in options.images:
                runs.append(run(image, task, recipe, options.extra))
                print(f"# {runs[-1]}", file=sys.stderr, flush=True)
        names = [name for name in BASELINES if name in runs[0].baselines]
        rows = [["image", "recipe", "steps", "PSNR", "SSIM", "seconds", *names]]
        for recipe in options.recipes:
            chosen = [one for one in runs if one.recipe == recipe]
            for one in chosen:
                rows.append(
                    [one.image, recipe, str(one.epochs), f"{one.psnr:.2f}", f"{one.ssim:.3f}"]
                    + [f"{one.seconds:.0f}"]
                    + [f"{one.baselines[name]:.2f}" for name in names]
                )
            columns = [
                statistics.fmean(column)
                for column in zip(
                    *(
                        [one.psnr, one.ssim, one.seconds, *map(one.baselines.get, names)]
                        for one in chosen
                    )
                )
            ]
            rows.append(
                ["mean", recipe, "", f"**{columns[0]:.2f}**", f"{columns[1]:.3f}"]
                + [f"{columns[2]:.0f}"]
                + [f"{mean:.2f}" for mean in columns[3:]]
            )
        print(f"\n### {task}\n\n{table(rows)}", flush=True)


if __name__ == "__main__":
    main()
