"""Where Jittor keeps what it has compiled: .cache/jittor in HOME, or in JITTOR_HOME."""

from __future__ import annotations

import json
import os
import tempfile

from siren.runtime.environment import user_environment
from siren.runtime.paths import create_folder, home, is_shell_safe, shell_safe
from siren.runtime.problem import RuntimeProblem


def home_setting() -> dict[str, str]:
    """The variable HOME, where a shell would split its name as a link to the same folder.

    JITTOR_HOME would do as well, but Jittor remembers that one for the user's other programs.
    """
    safe = shell_safe(home())
    return {"HOME": safe} if safe != user_environment().get("HOME", safe) else {}


def check_cache() -> None:
    """Raise RuntimeProblem if Jittor cannot keep there what it compiles."""
    _check_writable("the variable HOME", home())
    name, folder = _jittor_home()
    if folder is None:
        return
    folder = folder and os.path.abspath(folder)
    if not is_shell_safe(folder):
        raise RuntimeProblem(
            f"{name} is {folder!r}, but Jittor cannot work in a folder of such a name; choose one "
            "of letters, digits, dots, hyphens and underscores."
        )
    _check_writable(name, folder)


def _check_writable(name: str, folder: str) -> None:
    cache = os.path.join(folder, ".cache", "jittor")
    try:
        create_folder(cache)
        with tempfile.TemporaryFile(dir=cache) as file:
            file.write(b"0")
    except OSError as error:
        raise RuntimeProblem(
            f"Jittor keeps what it compiles in {cache}, which cannot be written "
            f"({error.strerror or error}); set {name} to a folder that can."
        ) from error


def _jittor_home() -> tuple[str, str | None]:
    """What JITTOR_HOME is, by the variable or as Jittor remembers it, and where that is said."""
    user = user_environment()
    if "JITTOR_HOME" in user:
        return "the variable JITTOR_HOME", user["JITTOR_HOME"]
    memory = os.path.join(home(), ".cache", "jittor", "config.json")
    try:
        with open(memory, encoding="utf8") as file:
            return f"JITTOR_HOME in {memory}", json.load(file).get("JITTOR_HOME")
    except FileNotFoundError:
        return "", None
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise RuntimeProblem(
            f"Jittor cannot read its own {memory} ({error}); remove it."
        ) from error
