"""``--task render``: a trained network drawn at any size."""

from __future__ import annotations

import argparse

from siren import memory, runtime, signals
from siren.cli import inputs
from siren.cli.errors import INTERRUPTED, Problem, about
from siren.cli.folder import output_folder, save_failure
from siren.cli.options import display_path, json_options
from siren.files import Change
from siren.images import NotANumber, encode_png
from siren.npz import FormatError, SavedNetwork, read_network
from siren.output import RENDERING, remove_leftovers
from siren.output.report import encode_json


def render(options: argparse.Namespace) -> int:
    """Draw a trained network; returns the exit status."""
    if runtime.world_size() > 1:
        raise Problem("--task render draws in one process; start it without mpirun")
    with about("network_path", FormatError):
        saved = read_network(options.network_path)
    channels = len(saved.layers[-1][1])
    if channels not in (1, 3):
        raise Problem(
            f"--network_path {options.network_path} has {channels} outputs; only 1 "
            "(gray) and 3 (color) can be drawn"
        )
    try:
        with output_folder(options, inputs.paths(options).values()):
            pictures = _draw(options, saved)
            _write(options, pictures)
    except KeyboardInterrupt:
        raise Problem("interrupted; nothing was drawn", INTERRUPTED) from None
    except NotANumber as error:
        raise Problem(
            f"--network_path {options.network_path}: some values of its picture "
            "are not numbers (NaN); draw another network"
        ) from error
    print(f"written to {display_path(options.output_dir)}")
    return 0


def _draw(options: argparse.Namespace, saved: SavedNetwork) -> dict:
    """The pictures by file name: integer arrays (height, width, channels)."""
    device = runtime.start(options.device, options.verbose)
    from siren.cli.machine import load_engine, require_memory
    from siren.engine.workload import Workload
    from siren.network import Siren
    from siren.output import rendering

    network = Siren.from_layers(saved.layers, saved.omega_0)
    shape = rendering.view_shape(saved.shape, options.crop, options.sidelength)
    size = network.hidden_features, network.hidden_layers, network.out_features
    require_memory(
        memory.Demand(
            shape, 0, 3, None, size[2], *size[:2],
            optimizer=None, engine=options.engine, device=device,
        )
    )  # fmt: skip
    workload = Workload("fp32", *size, losses=(), pictures=(0, 2))
    engine = load_engine(options.engine, workload, device)
    print(f"render: {display_path(options.network_path)} at {shape[0]} x {shape[1]}", flush=True)
    pictures = {"output.png": rendering.render(network, engine, shape, options.crop, saved.bits)}
    if options.derivatives:
        derivatives = rendering.render_derivatives(network, engine, shape, options.crop)
        pictures.update(zip(("gradient.png", "laplacian.png"), derivatives))
    return pictures


def _write(options: argparse.Namespace, pictures: dict) -> None:
    """Write the pictures and rendering.json, replacing those of an earlier rendering."""
    folder = options.output_dir
    try:
        with Change(folder) as change:
            for name, picture in pictures.items():
                change.write(name, encode_png(picture))
            description = {"options": json_options(options), "files": dict(change.digests)}
            change.write(RENDERING, encode_json(description))
            remove_leftovers(change)
            with signals.deferred():
                change.commit()
    except OSError as error:
        raise save_failure(options, error) from error
