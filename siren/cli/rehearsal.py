"""A run in miniature, in a child process, which compiles what the run will need.

Jittor compiles an operation when it first meets it. In the child, that can be interrupted at any
moment, and the parent shows how far it has come.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
from pathlib import Path

import numpy as np

from siren.cli.options import as_arguments
from siren.images import write_png
from siren.runtime import Compilation, run_interruptibly, under_mpirun
from siren.runtime.paths import digest, private_folder

# Pixels. On a GPU Jittor compiles indexing once for up to 1024 elements, once for up to 4096 and
# once for more, of which the run will have; there is time for that there.
SIDES = {"cpu": 16, "cuda": 256}
WORTH = 1 << 20  # points in all passes: a shorter run is as good as its rehearsal
# What decides which operations a run meets, besides the network and the device.
DECISIVE = ["task", "operator", "residual_norm", "prior", "optimizer", "engine", "blend"]
DECISIVE += ["hold_out", "mask_path", "batch_points", "preview_every"]


def rehearse(
    program: str, options: argparse.Namespace, device: str, bits: int, engine_stamp: str
) -> None:
    """Call ``program`` with the run of ``options`` in miniature, unless that has been done.

    ``bits`` are those of the pictures. ``engine_stamp`` (``engine.workload.trial_stamp``) names the
    network, the device and the machine. Whatever goes wrong in the rehearsal is for the run itself
    to report.
    """
    if under_mpirun() or options.epochs * options.sidelength**2 < WORTH:
        return
    decisive = [
        value if isinstance(value := getattr(options, name), (str, type(None))) else bool(value)
        for name in DECISIVE
    ]
    stamp = private_folder() / f"rehearsal-{digest(json.dumps([engine_stamp, bits, decisive]))}"
    if stamp.exists():
        return
    announcement = "Compiling what this run needs besides, once on this machine ..."
    with (
        tempfile.TemporaryDirectory() as folder,
        Compilation(announcement, "operations") as compilation,
    ):
        small = in_miniature(options, Path(folder), bits, SIDES[device])
        run_interruptibly([program, *as_arguments(small)], read=compilation.read)
    with contextlib.suppress(OSError):
        stamp.touch()


def in_miniature(
    options: argparse.Namespace, folder: Path, bits: int, side: int
) -> argparse.Namespace:
    """The same run in a few passes over noise, which is written to ``folder``, as its results."""
    small = argparse.Namespace(**vars(options))
    noise = np.random.default_rng(0).uniform(-1, 1, (side, side, options.channels))
    write_png(folder / "noise.png", noise.astype(np.float32), bits=bits)
    small.input_path = small.ot_image_path = folder / "noise.png"
    if options.mask_path is not None:
        mask = np.full((side, side, 1), -1, np.float32)
        mask[side // 4 : side // 2, side // 4 : side // 2] = 1
        small.mask_path = folder / "mask.png"
        write_png(small.mask_path, mask)
    small.output_dir = folder / "output"
    small.sidelength, small.aspect, small.offset = side, "square", (0, 0)
    small.range = None
    small.points = options.points and side * side // 4
    small.batch_points = options.batch_points and side * side // 8
    small.preview_every = min(options.preview_every, 1)
    small.epochs, small.resume = 3, False  # the prior follows the picture from the second on
    return small
