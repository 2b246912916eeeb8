"""The folder of Jittor's compiled code: .cache/jittor in HOME, or in JITTOR_HOME."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import struct
import tempfile
from pathlib import Path

from siren.runtime.environment import user_environment
from siren.runtime.paths import create_folder, home, is_shell_safe, shell_safe
from siren.runtime.problem import RuntimeProblem, SettingProblem

STAMP = "siren-compiled-"  # the beginning of a file's name: the core is compiled for some settings


def home_setting() -> dict[str, str]:
    """HOME as a link to the same folder, if a shell would split its path; else nothing.

    JITTOR_HOME would work too, but Jittor stores that one for the user's other programs.
    """
    safe = shell_safe(home())
    return {"HOME": safe} if safe != user_environment().get("HOME", safe) else {}


def check_cache() -> None:
    """Raise SettingProblem if Jittor cannot write its cache."""
    _check_writable("the variable HOME", home())
    name, folder = _jittor_home()
    if folder is None:
        return
    folder = folder and os.path.abspath(folder)
    if not is_shell_safe(folder):
        raise SettingProblem(
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
        raise SettingProblem(
            f"Jittor keeps what it compiles in {cache}, which cannot be written "
            f"({error.strerror or error}); set {name} to a folder that can."
        ) from error


@contextlib.contextmanager
def locked():
    """Within its context Jittor compiles nothing; its value is whether it was compiling before.

    Jittor holds a lock while it compiles. Raises OSError.
    """
    from jittor_utils import lock

    with open(lock.lock_path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


def remove_damaged(cache_path: str) -> None:
    """Remove compiled files that end too early, as after a full disk or a power failure.

    Jittor uses whatever has a record (``.key``, and ``.md5`` for one file). A library that ends too
    early crashes it or makes it hang, an object file cannot be linked, and a record that ends too
    early makes it rebuild a library that it has loaded. Without its record a file is compiled
    again: an operator when it is needed, all else by a child process, as at the first start.

    While a process is compiling, its files grow, and nothing is removed.
    """
    with contextlib.suppress(OSError), locked() as alone:
        if not alone:
            return
        for compiled, record in _recorded(cache_path):
            with contextlib.suppress(OSError):
                if not (_is_complete(compiled) and _is_complete_record(record)):
                    os.unlink(record)
                    os.unlink(compiled)
                    if "jit" not in Path(compiled).relative_to(cache_path).parts:  # an operator
                        for stamp in Path(cache_path).glob(f"{STAMP}*"):
                            stamp.unlink()


def _recorded(cache_path: str):
    """Compiled files, each with its record."""
    for folder, _, names in os.walk(cache_path):  # at every start: Path.rglob takes twice as long
        present = set(names)
        for name in names:
            record = "data.md5" if name == "data.o" else f"{name}.key"
            if name.endswith((".so", ".o")) and record in present:
                yield os.path.join(folder, name), os.path.join(folder, record)


def _is_complete(compiled: str) -> bool:
    """Whether a 64-bit ELF file is as long as its header says: the table of sections comes last."""
    with open(compiled, "rb") as file:
        header = file.read(64)
    if len(header) < 64 or header[:4] != b"\x7fELF":
        return False
    start, size, count = struct.unpack_from("<Q10xHH", header, 40)
    return os.path.getsize(compiled) >= start + size * count


def _is_complete_record(record: str) -> bool:
    """Whether a record is whole: lines, which are a command and the hashes of files, or one MD5."""
    with open(record, "rb") as file:
        content = file.read()
    return content.endswith(b"\n") if record.endswith(".key") else len(content) == 32


def _jittor_home() -> tuple[str, str | None]:
    """(where JITTOR_HOME is set, its value): by the variable, or in Jittor's configuration file."""
    user = user_environment()
    if "JITTOR_HOME" in user:
        return "the variable JITTOR_HOME", user["JITTOR_HOME"]
    config = os.path.join(home(), ".cache", "jittor", "config.json")
    try:
        with open(config, encoding="utf8") as file:
            return f"JITTOR_HOME in {config}", json.load(file).get("JITTOR_HOME")
    except FileNotFoundError:
        return "", None
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise RuntimeProblem(
            f"Jittor cannot read its own {config} ({error}); remove it."
        ) from error
