"""Makes ``import jittor`` (1.3.11) succeed on the machine at hand, and picks the device.

Jittor reads its settings from environment variables while it is imported. By default it downloads
libraries, assumes a working GPU wherever there is an ``nvcc``, and crashes if any of this is
missing. :func:`prepare` sets these variables so that nothing is downloaded and only what works is
used; ``import siren`` calls it. :func:`start` checks the machine, imports Jittor and selects the
device. Variables that the user has set win over ours.
"""

from siren.runtime.child import run_interruptibly
from siren.runtime.compilation import Compilation
from siren.runtime.device import start
from siren.runtime.install import missing_package
from siren.runtime.machine import Environment, describe
from siren.runtime.paths import shell_safe
from siren.runtime.problem import RuntimeProblem, SettingProblem
from siren.runtime.processes import check_launcher, rank, under_mpirun, world_size
from siren.runtime.settings import prepare

__all__ = [
    "Compilation",
    "Environment",
    "RuntimeProblem",
    "SettingProblem",
    "check_launcher",
    "describe",
    "missing_package",
    "prepare",
    "rank",
    "run_interruptibly",
    "shell_safe",
    "start",
    "under_mpirun",
    "world_size",
]
