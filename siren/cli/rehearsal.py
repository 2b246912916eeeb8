"""A run in miniature, in a child process, which compiles what the run will need.

Jittor compiles an operation when it first meets it. In the child, that can be interrupted at any
moment, and the parent shows how far it has come.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from siren import signals
from siren.images import write_png
from siren.runtime import Compilation, run_interruptibly, under_mpirun
from siren.runtime.paths import digest, private_folder

# Pixels. On a GPU Jittor compiles indexing once for up to 1024 elements, once for up to 4096 and
# once for more, of which the run will have; there is time for that there.
SIDES = {"cpu": 16, "cuda": 256}
WORTH = 1 << 20  # points in all passes: a shorter run is as good as its rehearsal
PATHS = ("input_path", "ot_image_path", "mask_path", "output_dir", "network_path")
# What decides which operations a run meets, besides the network and the device.
DECISIVE = (
    *("task", "operator", "residual_norm", "prior", "optimizer", "engine", "blend", "hold_out"),
    *("mask_path", "batch_points", "preview_every"),
)
CODE = "import sys, main; from siren.cli import rehearsal; rehearsal.perform(sys.argv[1], main.run)"


def rehearse(options: argparse.Namespace, device: str, bits: int, engine_stamp: str) -> None:
    """Rehearse the run of ``options`` on ``device``, unless that has been done.

    ``bits`` are those of the pictures. ``engine_stamp`` (``engine.use.trial_stamp``) names the
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
    with contextlib.suppress(OSError):
        stamp.touch()  # first, so that the run in the child does not rehearse in its turn
    values = json.dumps({**vars(options), "bits": bits, "side": SIDES[device]}, default=str)
    announcement = "Compiling what this run needs besides, once on this machine ..."
    try:
        with Compilation(announcement, "operations") as compilation:
            run_interruptibly(["-c", CODE, values], read=compilation.read)
    except BaseException:
        stamp.unlink(missing_ok=True)
        raise


def perform(values: str, run: Callable) -> None:
    """In the child: call ``run``, of main.py, with the options in ``values`` made small."""
    values = json.loads(values)
    bits, side = values.pop("bits"), values.pop("side")
    for name in PATHS:
        values[name] = values[name] and Path(values[name])
    options = argparse.Namespace(**values)
    with tempfile.TemporaryDirectory() as folder:
        _shrink(options, Path(folder), bits, side)
        run(options, signals.Stop())


def _shrink(options: argparse.Namespace, folder: Path, bits: int, side: int) -> None:
    """Let ``options`` take a few passes over noise, and write to ``folder``."""
    noise = np.random.default_rng(0).uniform(-1, 1, (side, side, options.channels))
    write_png(folder / "noise.png", noise.astype(np.float32), bits=bits)
    options.input_path = options.ot_image_path = folder / "noise.png"
    if options.mask_path is not None:
        mask = np.full((side, side, 1), -1, np.float32)
        mask[side // 4 : side // 2, side // 4 : side // 2] = 1
        options.mask_path = folder / "mask.png"
        write_png(options.mask_path, mask)
    options.output_dir = folder / "output"
    options.sidelength, options.aspect, options.offset = side, "square", (0, 0)
    options.range = None
    options.points = options.points and side * side // 4
    options.batch_points = options.batch_points and side * side // 8
    options.preview_every = min(options.preview_every, 1)
    options.epochs, options.resume = 3, False  # the prior follows the picture from the second on
