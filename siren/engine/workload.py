"""What a run will ask of an engine, and what decides whether that works here; without Jittor."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from siren.runtime.cuda import find_cuda
from siren.runtime.environment import identity, setting
from siren.runtime.machine import cpu_fact


@dataclass(frozen=True)
class Workload:
    """A network, and the functions of an engine that it will meet."""

    precision: str = "fp32"  # of matrix products in training, one of ``fused.PRECISIONS``
    width: int = 256  # of the network, as the next three
    layers: int = 3  # hidden ones after the first
    channels: int = 1
    omega_0: float = 30.0
    losses: tuple[int, ...] = (0,)  # orders of ``squared_error`` with its gradient
    compact: bool = True  # whether the targets of those are pixels, as a picture has them
    streams: tuple[int, ...] = ()  # orders of ``streams`` with gradients
    variation: bool = False  # whether ``variation`` is used
    pictures: tuple[int, ...] = (0,)  # orders of ``streams`` without gradients
    muon: bool = False  # whether matrices are orthogonalized

    @property
    def has_kernels(self) -> bool:
        """Whether the fused engine has kernels for such a network.

        They are built around the matrices between hidden layers; one without any is so small that
        the reference engine will do.
        """
        return self.layers > 0

    def to_json(self, device: str) -> str:
        """The argument of ``python -m siren.engine.trial``; ``device`` is "cpu" or "cuda"."""
        return json.dumps({**asdict(self), "device": device}, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> tuple[Workload, str]:
        """The workload and the device that ``to_json`` was given."""
        values = json.loads(text)
        device = values.pop("device")
        lists = {name: tuple(values[name]) for name in ("losses", "streams", "pictures")}
        return Workload(**{**values, **lists}), device


def trial_facts(workload: Workload, device: str) -> list:
    """What decides whether a workload works here.

    It changes with the sources of kernels and where they are (Jittor compiles them anew for another
    folder), Jittor, Python, the compilers and the processor.
    """
    from importlib.metadata import version  # a third of the time that --help takes

    facts = [_sources(Path(__file__).resolve().parent), workload.to_json(device)]
    facts += [version("jittor"), sys.version, identity(setting("cc_path") or "g++")]
    facts += [cpu_fact("model name"), cpu_fact("flags")]
    if device == "cuda":
        facts += [identity(setting("nvcc_path") or "nvcc"), str(find_cuda())]
    return facts


@functools.cache
def _sources(folder: Path) -> str:
    """A digest of the engine's sources in ``folder``, and of where they are."""
    digest = hashlib.sha256(os.fsencode(folder))
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".py", ".h"):
            digest.update(os.fsencode(path.relative_to(folder)) + path.read_bytes())
    return digest.hexdigest()
