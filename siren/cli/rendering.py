"""``--task render``: a trained network drawn at any size."""

from __future__ import annotations

import argparse

from siren import memory, runtime, signals
from siren.cli import inputs
from siren.cli.errors import Interrupted, Problem
from siren.cli.folder import output_folder, unsaved
from siren.cli.identity import as_json, shown_path
from siren.cli.relevance import counted
from siren.files import Change
from siren.images import NotANumber, encode_png
from siren.output.network_file import NetworkError, SavedNetwork, read_network
from siren.output.record import RENDERING, read_record
from siren.output.report import encode_json
from siren.text import printable


def render(options: argparse.Namespace) -> int:
    """Draw a trained network; returns the exit status."""
    if runtime.world_size() > 1:
        raise Problem("--task render draws in one process; start it without mpirun")
    try:
        saved = read_network(options.network_path)
    except NetworkError as error:
        raise Problem(f"--network_path: {error}") from error
    channels = len(saved.layers[-1][1])
    if channels not in (1, 3):
        raise Problem(
            f"--network_path {printable(str(options.network_path))} has {channels} outputs; only 1 "
            "(gray) and 3 (colour) can be drawn"
        )
    try:
        with output_folder(options, inputs.paths(options).values()) as lock:
            pictures = _draw(options, saved)
            _write(options, lock, pictures)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; nothing was drawn") from None
    except NotANumber as error:
        raise Problem(
            f"--network_path {printable(str(options.network_path))}: its values are beyond what "
            "can be computed with; draw another network"
        ) from error
    print(f"written to {shown_path(options.output_dir)}")
    return 0


def _draw(options: argparse.Namespace, saved: SavedNetwork) -> dict:
    """The pictures by name, integer arrays (height, width, channels)."""
    device = runtime.start(options.device, options.verbose)
    from siren.cli.machine import engine_for
    from siren.engine.use import Use, functions
    from siren.network import Siren
    from siren.output import rendering

    network = Siren.from_layers(saved.layers, saved.omega_0)
    shape = rendering.view_shape(saved.shape, options.crop, options.sidelength)
    size = network.hidden_features, network.hidden_layers, network.out_features
    problem = memory.problem(
        memory.Run(
            "render", shape, 0, None, size[2], *size[:2], engine=options.engine, device=device
        )
    )
    if problem:
        raise Problem(problem)
    engine = engine_for(options.engine, Use("fp32", *size, **functions("render")), device)
    print(f"render: {shown_path(options.network_path)} at {shape[0]} x {shape[1]}", flush=True)
    drawn = {"output.png": rendering.render(network, engine, shape, options.crop, saved.bits)}
    if options.derivatives:
        names = "gradient.png", "laplacian.png"
        drawn.update(zip(names, rendering.render_derivatives(network, engine, shape, options.crop)))
    return drawn


def _write(options: argparse.Namespace, lock, pictures: dict) -> None:
    """Write the pictures, and what they are, in the place of those of an earlier rendering."""
    folder = options.output_dir
    try:
        with Change(folder) as change:
            for name, picture in pictures.items():
                change.write(name, encode_png(picture))
            about = {
                "options": {name: as_json(value) for name, value in counted(options).items()},
                "files": dict(change.digests),
            }
            change.write(RENDERING, encode_json(about))
            for name in read_record(folder, lock).leftovers(change.digests):
                change.remove(name)
            with signals.held_back():
                change.commit()
    except OSError as error:
        raise unsaved(options, error) from error
