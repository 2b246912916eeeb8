"""Inpainting by several methods from the very same random pixels.

The pixels are those of `main.py --task inpaint` with the same seed, and the score is its score: the
PSNR over the pixels that were not given.

nearest, linear, cubic, thin_plate  interpolations, as in siren.solvers
biharmonic        inpaint_biharmonic of scikit-image
edge_enhancing    edge-enhancing diffusion, as in siren.diffusion
fourth_order      the same with an energy of second derivatives added: fourth_order.py
frequency_selective
                  frequency selective reconstruction (Genser et al. 2018), INPAINT_FSR_FAST of
                  OpenCV, which is better here than its _BEST, and 20 times as fast; needs
                  opencv-contrib-python-headless
prior_on_pixels   the loss of the tuned recipe, its prior included, minimized over pixels instead of
                  a network: what the network adds
deep_image_prior, deep_image_prior_50
                  an untrained convolutional network (Ulyanov, Vedaldi and Lempitsky 2018), as in
                  the paper's code for 2 % and for 50 % of the pixels given. Needs PyTorch, and uses
                  a GPU if there is one.
siren             the tuned recipe: one run of main.py

Every score is a line of JSON in the --output file, and runs that are in it already are not
repeated. Methods may run on different machines: --merge prints the tables of several such files.

    python benchmarks/inpainting.py --output ours.jsonl --methods siren fourth_order
    python benchmarks/inpainting.py --output prior.jsonl --methods deep_image_prior
    python benchmarks/inpainting.py --merge ours.jsonl prior.jsonl
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from fourth_order import mixed_diffusion  # noqa: E402

from siren.cli.recipes import PRIOR_WEIGHTS  # noqa: E402
from siren.diffusion import (  # noqa: E402
    cell_gradient,
    diffusion,
    diffusion_tensors,
    edge_enhancing_diffusion,
    solve,
)
from siren.images import read_image, to_integers  # noqa: E402
from siren.metrics import psnr  # noqa: E402
from siren.solvers import INTERPOLATIONS, interpolate  # noqa: E402

IMAGES = ("camera.png", "astronaut.jpg", "coffee.jpg", "chelsea.png", "flower.jpg")
DIFFUSIONS = {"edge_enhancing": edge_enhancing_diffusion, "fourth_order": mixed_diffusion}
CLASSICAL = (*INTERPOLATIONS, "biharmonic", *DIFFUSIONS, "frequency_selective")
METHODS = (*CLASSICAL, "prior_on_pixels", "deep_image_prior", "deep_image_prior_50", "siren")
HOLD_OUT = 0.05  # this share of the given pixels chooses the step of a deep image prior


# ---- the problem -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """An image, ``share`` of whose pixels are given."""

    path: Path
    channels: int
    side: int
    share: float
    seed: int

    @property
    def image(self) -> np.ndarray:
        """(side, side, channels) float32 in [-1, 1], as main.py reads it."""
        return read_image(self.path, self.channels, (self.side, self.side))

    @property
    def points(self) -> int:
        """The number of given pixels."""
        return round(self.share * self.side**2)

    @property
    def chosen(self) -> np.ndarray:
        """Indices of the given pixels, drawn as in siren.tasks.inpaint; held-out ones first."""
        return np.random.default_rng(self.seed).choice(self.side**2, self.points, replace=False)

    @property
    def given(self) -> np.ndarray:
        """Mask (side, side) of the given pixels."""
        return mask_of(self.chosen, self.side)

    def score(self, picture: np.ndarray) -> float:
        """PSNR in dB over the pixels that were not given."""
        return psnr(picture, self.image, mask=~self.given)

    def describe(self) -> dict:
        """What identifies the problem, on every machine."""
        return {
            "image": self.path.stem,
            "channels": self.channels,
            "side": self.side,
            "share": self.share,
            "seed": self.seed,
            "pixels": hashlib.sha256(self.chosen.astype(np.int64).tobytes()).hexdigest()[:16],
        }


def mask_of(pixels: np.ndarray, side: int) -> np.ndarray:
    """Mask (side, side) that is true at ``pixels``, given by index."""
    mask = np.zeros(side * side, bool)
    mask[pixels] = True
    return mask.reshape(side, side)


# ---- the methods: each returns {"psnr": dB, ...} ---------------------------------------------


def run_interpolation(problem: Problem, method: str) -> dict:
    """One of the interpolations in siren.solvers."""
    return {"psnr": problem.score(interpolate(problem.image, problem.given, method))}


def run_biharmonic(problem: Problem) -> dict:
    """The biharmonic equation with the given pixels as its boundary values."""
    from skimage.restoration import inpaint_biharmonic

    missing = ~problem.given
    masked = np.where(missing[..., None], np.float32(0), problem.image)
    return {"psnr": problem.score(inpaint_biharmonic(masked, missing, channel_axis=-1))}


def run_frequency_selective(problem: Problem) -> dict:
    """Frequency selective reconstruction of 8-bit pixels, which has no settings."""
    import cv2

    image = np.where(problem.given[..., None], to_integers(problem.image, 8), np.uint8(0))
    filled = np.zeros_like(image)
    cv2.xphoto.inpaint(image, problem.given.astype(np.uint8), filled, cv2.xphoto.INPAINT_FSR_FAST)
    return {"psnr": problem.score(np.float32(filled.reshape(image.shape)) / 127.5 - 1)}


def run_prior_on_pixels(problem: Problem) -> dict:
    """The minimum, over pixels, of what the tuned recipe minimizes over networks.

    With f the image and gradients in pixel units:

        mean over the given of (u - f)^2 + weight * mean over the cells of sqrt(grad u^T D grad u)

    The root, rounded off at SMALLEST, is by reweighted squares. As in the recipe, D is I at first
    and then follows u, ten times.
    """
    from siren.priors import StructureVariation as Prior

    image, given = np.moveaxis(problem.image, 2, 0), problem.given
    share = given / np.float32(given.sum())
    tensors = np.ones((3, problem.side - 1, problem.side - 1), np.float32)
    tensors[1] = 0
    weight = PRIOR_WEIGHTS["structure"] / (2 / (problem.side - 1)) / tensors[0].size
    u = np.moveaxis(edge_enhancing_diffusion(problem.image, given), 2, 0)
    for update in range(11):
        if update:
            tensors = np.stack(diffusion_tensors(u, Prior.CONTRAST, Prior.SIGMA, Prior.RHO))
        for _ in range(6):
            root = np.sqrt(variation(u, *tensors) + Prior.SMALLEST**2)
            smooth, diagonal = diffusion(*(tensors * (weight / 2 / root)))
            loss = partial(penalized, smooth, share)
            u = u - solve(loss, diagonal + share, loss(u) - share * image, share >= 0)
    return {"psnr": problem.score(np.moveaxis(u, 0, 2))}


def penalized(smooth, share, u):
    """The operator of the quadratic loss: ``smooth`` and the ``share`` of every pixel."""
    return smooth(u) + share * u


def variation(u, a, b, c):
    """grad u^T D grad u of every cell of 2 x 2 pixels of u (channels, h, w), mean of channels."""
    rows, columns = cell_gradient(u)
    return (a * rows**2 + 2 * b * rows * columns + c * columns**2).mean(0)


def run_siren(problem: Problem, extra: list[str]) -> dict:
    """One run of main.py with the tuned recipe."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "main.py"), "--task", "inpaint", "--recipe", "tuned"]
        command += ["--input_path", str(problem.path), "--channels", str(problem.channels)]
        command += ["--sidelength", str(problem.side), "--points", str(problem.points)]
        command += ["--seed", str(problem.seed), "--output_dir", folder, *extra]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        metrics = json.loads(Path(folder, "metrics.json").read_text())
    linear = run_interpolation(problem, "linear")["psnr"]
    if not math.isclose(metrics["baselines"]["linear"]["psnr"], linear, abs_tol=1e-6):
        raise RuntimeError("main.py was given other pixels")
    return {"psnr": metrics["psnr"], "training_seconds": metrics["seconds"]}


@dataclass(frozen=True)
class Prior:
    """Network and settings of a deep image prior.

    widths    channels of each scale, from fine to coarse
    skip      channels that lead past the coarser scales, at every scale
    averages  whether scales are halved by averages; otherwise by every other convolution
    rate      of Adam
    noise     standard deviation of what is added to the input at every step
    """

    widths: tuple[int, ...]
    skip: int
    averages: bool
    steps: int
    rate: float
    noise: float


# From restoration.ipynb of the paper's code: for 2 % and for 50 % of the pixels given. The former
# takes 1000 steps there; here it has more, of which the held-out pixels choose.
PRIORS = {
    "deep_image_prior": Prior((16, 32, 64, 128, 128), 0, True, 3000, 0.01, 0.0),
    "deep_image_prior_50": Prior((128,) * 5, 4, False, 11000, 0.001, 0.03),
}


def run_deep_image_prior(problem: Problem, prior: Prior) -> dict:
    """An untrained network, fitted to the given pixels from a fixed noise.

    The picture is a moving average of the outputs, as in the paper's code. ``HOLD_OUT`` of the
    given pixels, the same as in the tuned recipe, are not trained on, but choose the best step, out
    of every 50th. Besides the PSNR of that step, the result has those of the last and of the truly
    best one.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(problem.seed)
    validating, training = (
        torch.from_numpy(mask_of(pixels, problem.side)).to(device)
        for pixels in np.split(problem.chosen, [int(HOLD_OUT * problem.points)])
    )
    target = torch.from_numpy((problem.image + 1) / 2).permute(2, 0, 1)[None].to(device)
    network = skip_network(problem.channels, prior).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=prior.rate)
    noise = torch.rand(1, 32, problem.side, problem.side, device=device) / 10

    average, scores = None, []
    for step in range(1, prior.steps + 1):
        output = network(noise + prior.noise * torch.randn_like(noise))
        loss = ((output - target) ** 2 * training).sum() / (training.sum() * problem.channels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        output = output.detach()
        average = output if average is None else 0.99 * average + 0.01 * output
        if step % 50 == 0:
            error = ((average - target) ** 2)[..., validating].mean().item()
            picture = average[0].permute(1, 2, 0).cpu().numpy() * 2 - 1
            scores.append((error, problem.score(picture), step))
    best = min(scores)
    return {
        "psnr": best[1],
        "step": best[2],
        "psnr_last": scores[-1][1],
        "psnr_best": max(score for _, score, _ in scores),
    }


def skip_network(channels: int, prior: Prior):
    """The paper's encoder and decoder.

    Maps noise (1, 32, height, width) to a picture (1, channels, height, width) in [0, 1].
    """
    import torch
    from torch import nn

    def convolve(fan_in: int, fan_out: int, size: int, stride: int = 1) -> list[nn.Module]:
        average = stride > 1 and prior.averages
        convolution = nn.Conv2d(
            fan_in,
            fan_out,
            size,
            1 if average else stride,
            padding=size // 2,
            padding_mode="reflect",
        )
        pool = [nn.AvgPool2d(stride)] if average else []
        return [convolution, *pool, nn.BatchNorm2d(fan_out), nn.LeakyReLU(0.2)]

    class Scale(nn.Module):
        """The scale ``depth`` and all coarser ones: (1, fan_in, h, w) to (1, width, h, w)."""

        def __init__(self, fan_in: int, depth: int):
            super().__init__()
            width, *coarser = prior.widths[depth:]
            self.deeper = nn.Sequential(
                *convolve(fan_in, width, 3, stride=2),
                *convolve(width, width, 3),
                *([Scale(width, depth + 1)] if coarser else []),
            )
            self.skip = nn.Sequential(*convolve(fan_in, prior.skip, 1)) if prior.skip else None
            merged = prior.skip + (coarser or [width])[0]
            self.merge = nn.Sequential(
                nn.BatchNorm2d(merged), *convolve(merged, width, 3), *convolve(width, width, 1)
            )

        def forward(self, x):
            size = x.shape[2:]
            deeper = nn.functional.interpolate(self.deeper(x), size=size, mode="bilinear")
            parts = [deeper] if self.skip is None else [self.skip(x), deeper]
            return self.merge(torch.cat(parts, dim=1))

    return nn.Sequential(Scale(32, 0), nn.Conv2d(prior.widths[0], channels, 1), nn.Sigmoid())


def run(problem: Problem, method: str, options: argparse.Namespace) -> dict:
    """One record of the --output file."""
    start = time.perf_counter()
    if method in INTERPOLATIONS:
        result = run_interpolation(problem, method)
    elif method == "biharmonic":
        result = run_biharmonic(problem)
    elif method in DIFFUSIONS:
        result = {"psnr": problem.score(DIFFUSIONS[method](problem.image, problem.given))}
    elif method == "frequency_selective":
        result = run_frequency_selective(problem)
    elif method == "prior_on_pixels":
        result = run_prior_on_pixels(problem)
    elif method == "siren":
        result = run_siren(problem, options.extra)
    else:
        result = run_deep_image_prior(problem, PRIORS[method])
    seconds = round(time.perf_counter() - start, 2)
    return {**problem.describe(), "method": method, **result, "seconds": seconds}


# ---- records and tables ----------------------------------------------------------------------


def key(record: dict) -> tuple:
    """What only one record has."""
    return tuple(record[n] for n in ("image", "channels", "side", "share", "seed", "method"))


def read_records(paths: list[Path]) -> list[dict]:
    """The records of all files, the last one of each key. ValueError: not of the same pixels."""
    lines = [line for path in paths for line in path.read_text().splitlines()]
    records = {key(record): record for record in map(json.loads, lines)}
    pixels: dict[tuple, str] = {}
    for identity, record in records.items():
        if pixels.setdefault(identity[:-1], record["pixels"]) != record["pixels"]:
            raise ValueError(f"{identity}: other methods were given other pixels")
    return list(records.values())


def gain(scores: dict[str, float]) -> float | None:
    """How much better siren is than the best classical method, in dB; None if unknown."""
    classical = [scores[name] for name in CLASSICAL if name in scores]
    return scores["siren"] - max(classical) if classical and "siren" in scores else None


def format_row(name: str, share: str, scores: dict[str, float], methods: list[str]) -> str:
    """One line of a table."""
    values = [scores.get(method) for method in methods] + [scores.get("gain")]
    cells = ["–" if value is None else f"{value:.2f}" for value in values]
    return "| " + " | ".join([name, share, *cells]) + " |"


def make_table(records: list[dict]) -> str:
    """Markdown of the records of one size: images and means for every share, means over seeds.

    A mean is given for a method that has a score for every image.
    """
    methods = [name for name in METHODS if any(r["method"] == name for r in records)]
    head = ["image", "given", *methods, "gain over the best classical"]
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for share in sorted({record["share"] for record in records}):
        percent = f"{100 * share:.3g} %"
        rows = []
        same_share = [record for record in records if record["share"] == share]
        for image in dict.fromkeys(record["image"] for record in same_share):
            found: dict[str, list[float]] = {}
            for record in same_share:
                if record["image"] == image:
                    found.setdefault(record["method"], []).append(record["psnr"])
            scores = {name: statistics.fmean(values) for name, values in found.items()}
            scores |= {"gain": gain(scores)} if gain(scores) is not None else {}
            rows.append(scores)
            lines.append(format_row(image, percent, scores, methods))
        means = {
            name: statistics.fmean(row[name] for row in rows)
            for name in (*methods, "gain")
            if all(name in row for row in rows)
        }
        lines.append(format_row("**mean**", percent, means, methods))
    return "\n".join(lines)


def print_tables(records: list[dict]) -> None:
    """One table for each number of channels and size."""
    for channels, side in sorted({(record["channels"], record["side"]) for record in records}):
        chosen = [r for r in records if (r["channels"], r["side"]) == (channels, side)]
        color = "gray" if channels == 1 else "color"
        print(f"\n### {side} x {side}, {color}\n\n{make_table(chosen)}", flush=True)


def parse() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, help="file to which scores are added")
    parser.add_argument("--merge", type=Path, nargs="+", help="print these files, and run nothing")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=CLASSICAL[:-1])
    parser.add_argument("--images", nargs="+", default=IMAGES, help="files, or names in data/")
    parser.add_argument("--shares", nargs="+", type=float, default=[2, 5, 10], help="per cent")
    parser.add_argument("--channels", nargs="+", type=int, choices=(1, 3), default=[1])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("extra", nargs="*", help="after --: more options for main.py")
    return parser.parse_args()


def main() -> None:
    """Run what is missing in --output and print all of it."""
    options = parse()
    if options.merge:
        print_tables(read_records(options.merge))
        return
    records = read_records([options.output]) if options.output and options.output.exists() else []
    done = {key(record) for record in records}
    problems = [
        Problem(
            path if path.exists() else ROOT / "data" / path, channels, options.side, s / 100, seed
        )
        for channels in options.channels
        for path in map(Path, options.images)
        for s in options.shares
        for seed in options.seeds
    ]
    for problem in problems:
        for method in options.methods:
            if key({**problem.describe(), "method": method}) in done:
                continue
            records.append(run(problem, method, options))
            line = json.dumps(records[-1])
            print(f"# {line}", file=sys.stderr, flush=True)
            if options.output:
                with options.output.open("a") as file:
                    file.write(line + "\n")
    print_tables(records)


if __name__ == "__main__":
    main()
