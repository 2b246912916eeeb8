"""Installs the packages that an environment lacks, and moves none that it has to another version.

run.sh runs this file with the environment's interpreter, before there is any package:

    python siren/runtime/install.py requirements.txt

In ``.venv``, which run.sh has created, packages that are too old are replaced. In an environment of
the user, that is refused in a sentence with the command that does it.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

# Without its dependencies, of which numpy<2 is not needed (patches.py); requirements.txt has the
# others.
JITTOR = "jittor==1.3.11.0"
PACKAGES = {  # by the module that is imported
    "numpy": "numpy",
    "scipy": "scipy",
    "PIL": "pillow",
    "tqdm": "tqdm",
    "astunparse": "astunparse",
}
_NEEDED_BY_THESE = ("six", "wheel")  # by astunparse
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:(?:>=|==)([0-9.]+))?")
_PIP_QUIETLY = ["-qq", "--disable-pip-version-check", "--no-warn-conflicts"]


class Requirement(NamedTuple):
    """A line of a requirements file."""

    text: str  # as pip takes it
    name: str  # of the package
    minimum: tuple[int, ...]  # the version that it has to have at least; () if any will do


def missing_package(module: str) -> str:
    """The sentence for an import that has failed; "" if ``module`` is none that is required."""
    name = module.partition(".")[0]
    if name in ("jittor", "jittor_utils"):
        return f"Jittor is missing; pip install --no-deps {JITTOR} provides it."
    if name in PACKAGES:
        package = PACKAGES[name]
        return f"The package {package} is missing; pip install -r requirements.txt provides it."
    return ""


def parse(line: str) -> Requirement | None:
    """The requirement in a line; None in a comment or an empty line."""
    text = line.partition("#")[0].strip()
    if not text:
        return None
    name, version = _REQUIREMENT.fullmatch(text).groups()
    return Requirement(text, name, _numbers(version or ""))


def install(file: Path) -> None:
    """Install what ``file`` names, and Jittor, unless it is there.

    What the user has to decide or to mend ends the program with status 1 and a sentence.
    """
    lines = file.read_text(encoding="utf8").splitlines()
    required = [requirement for requirement in map(parse, lines) if requirement]
    jittor = parse(JITTOR)
    unsuitable = [each for each in [*required, jittor] if not _is_there(each)]
    own = Path(sys.prefix) == Path(__file__).parents[2] / ".venv"
    for each in unsuitable:
        if _version(each.name) and not own:
            option = "--no-deps " if each == jittor else ""
            sys.exit(
                f"run.sh: {sys.prefix} has {each.name} {_version(each.name)}, but "
                f"{each.text} is needed; to replace it: "
                f"{shlex.join(_installer())} {option}{shlex.quote(each.text)}"
            )
    others = [each for each in unsuitable if each != jittor]
    if others:
        names = [] if own else [*(each.name for each in required), *_NEEDED_BY_THESE]
        _run_installer(others, pinned={name: _version(name) for name in names if _version(name)})
    if jittor in unsuitable:
        _run_installer([jittor], pinned={}, options=("--no-deps",))
    _try()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", re.match(r"[0-9.]*", version)[0])))


def _version(name: str) -> str | None:
    """The version of a package; None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _is_there(requirement: Requirement) -> bool:
    """Whether a package is installed, and not too old; a newer one than named is left alone."""
    version = _version(requirement.name)
    return version is not None and _numbers(version) >= requirement.minimum


def _run_installer(
    requirements: list[Requirement], pinned: dict[str, str], options: tuple[str, ...] = ()
) -> None:
    """Install ``requirements`` without changing the versions of the packages in ``pinned``."""
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder, "constraints.txt")
        lines = [f"{name}=={version}" for name, version in pinned.items()]
        constraints.write_text("\n".join(lines), encoding="utf8")
        texts = [requirement.text for requirement in requirements]
        installer = _installer()
        quietly = ["-q"] if installer[0] == "uv" else _PIP_QUIETLY
        command = [*installer, *quietly, "-c", str(constraints), *options, *texts]
        print(f"Installing {', '.join(texts)} into {sys.prefix} ...", file=sys.stderr, flush=True)
        if subprocess.run(command).returncode:
            kept = ", without other versions of what is there," if pinned else ""
            sys.exit(f"run.sh: installing {', '.join(texts)}{kept} failed; the reason is above.")


def _installer() -> list[str]:
    """The start of an installing command: pip's; uv's where there is no pip."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", "install"]
    if shutil.which("uv"):
        return ["uv", "pip", "install", "--python", sys.executable]
    sys.exit(
        f"run.sh: {sys.prefix} has no pip, and there is no uv here; "
        f"{shlex.quote(sys.executable)} -m ensurepip adds pip."
    )


def _try() -> None:
    """Name the first package that cannot be imported, and end the program."""
    for name, package in PACKAGES.items():  # SciPy, for instance, may be too old for NumPy
        module = {"scipy": "scipy.linalg", "PIL": "PIL.Image"}.get(name, name)
        trial = subprocess.run(
            [sys.executable, "-c", f"import {module}"], capture_output=True, text=True
        )
        if trial.returncode:
            reason = (trial.stderr.strip().splitlines() or ["it crashes"])[-1]
            sys.exit(
                f"run.sh: {package} {_version(package)} does not work in {sys.prefix} "
                f"({reason}); to replace it: {shlex.join(_installer())} --upgrade {package}"
            )


if __name__ == "__main__":
    install(Path(sys.argv[1]))
