"""The variables that Jittor reads, and the files and paths that it is given.

The environment has variables of the user's and of ours; the user's win.

Jittor passes paths to a shell, some of them without quotes. A path that a shell would split is
therefore replaced by a link with a safe name. Whoever could change that link, or a script beside
it, could run programs as the user. So all of them are in a private folder, which belongs to this
user and which nobody else can write.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import secrets
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from siren import files
from siren.runtime.messages import Problem, failure

# ---- variables ----

# In this variable publish() stores, as JSON, {variable: [value before, value set]}, so that a
# second call and a child process can distinguish our settings from the user's.
RECORD = "SIREN_RUNTIME_SETTINGS"


def user_environment() -> dict[str, str]:
    """The environment as it would be without our settings."""
    user = dict(os.environ)
    user.pop(RECORD, None)
    for name, (before, value) in _published().items():
        if user.get(name) == value:
            del user[name]
            if before is not None:
                user[name] = before
    return user


def setting(name: str) -> str:
    """The value of a variable, the user's or ours; empty if there is none."""
    return os.environ.get(name, "")


def publish(settings: dict[str, str]) -> None:
    """Set these variables instead of our earlier ones, and record what they replace."""
    user = user_environment()
    for name in _published():
        os.environ.pop(name, None)
    os.environ.update(user)
    os.environ.update(settings)
    os.environ[RECORD] = json.dumps({name: [user.get(name), settings[name]] for name in settings})


def _published() -> dict[str, list]:
    """What publish() has stored."""
    return json.loads(os.environ.get(RECORD, "{}"))


# ---- folders and paths ----

SHARED = "/tmp"  # not TMPDIR, which may change: Jittor would compile everything again
# Stricter than a shell: a comma or a colon would end the name in -Wl,-rpath,FOLDER.
_SHELL_SAFE = re.compile(r"[\w./+=@%-]+", re.ASCII)


def home() -> str:
    """The user's home folder, absolute; raises Problem if there is none."""
    try:
        return os.path.abspath(user_environment().get("HOME") or pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        raise Problem(
            "The variable HOME is not set and this user has no home folder; set HOME to a folder "
            "that can be written."
        ) from None


def home_setting() -> dict[str, str]:
    """HOME as a link to the same folder, if a shell would split its path; else nothing.

    JITTOR_HOME would work too, but Jittor stores that one for the user's other programs.
    """
    safe = shell_safe(home())
    return {"HOME": safe} if safe != user_environment().get("HOME", safe) else {}


def shell_safe(path: str | os.PathLike, folder: str = "") -> str:
    """``path`` itself if it is shell-safe; else the same path through a link that is.

    Args:
        path: an absolute path.
        folder: a folder above ``path`` that the link should point to; by default ``path`` itself.
    """
    path = os.fspath(path)
    if is_shell_safe(path):
        return path
    if not (folder and path.startswith(folder + os.sep) and is_shell_safe(path[len(folder) :])):
        folder = path
    link = private_folder() / f"link-{digest(folder)}"
    write_link(link, folder)
    return str(link) + path[len(folder) :]


def is_shell_safe(path: str) -> bool:
    """Whether a shell, and Jittor when it splits commands, treat ``path`` as one word."""
    return bool(_SHELL_SAFE.fullmatch(path))


def private_folder() -> Path:
    """A folder with a shell-safe path that belongs to this user and that nobody else can write."""
    folders = [Path(home(), ".cache", "siren"), Path(SHARED, f"siren-{os.geteuid()}")]
    for folder in folders:
        if is_shell_safe(str(folder)) and make_private(folder):
            return folder
    raise failure(
        f"Neither {folders[0]} nor {folders[1]} can be a folder that this user alone can write; "
        "make it possible for one of them."
    )


def create_folder(folder: str | os.PathLike) -> None:
    """Create a folder and its parents, readable by this user only, if they are missing."""
    folder = Path(folder)
    for each in [*reversed(folder.parents), folder]:
        if not os.path.lexists(each):
            with contextlib.suppress(FileExistsError):  # another process was faster
                os.mkdir(each, 0o700)


def make_private(folder: Path) -> bool:
    """Create a folder if it is missing; returns whether only this user owns and can write it."""
    try:
        create_folder(folder)
        status = os.lstat(folder)  # of a link itself, not of its target
    except OSError:
        return False
    owned = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    return owned and not status.st_mode & 0o022 and os.access(folder, os.W_OK | os.X_OK)


def read_text(path: str | os.PathLike) -> str:
    """What is in a file of the system; "" if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf8", errors="replace")
    except OSError:
        return ""


def write_file(path: Path, text: str, mode: int = 0o600) -> None:
    """Write a file of a private folder atomically, unless it has this text already."""
    content = text.encode("utf8", "surrogateescape")
    with contextlib.suppress(OSError):
        if path.read_bytes() == content:
            return
    files.write_bytes(path, content, mode)


def write_link(link: Path, target: str) -> None:
    """Make a link of a private folder point to ``target``, atomically."""
    with contextlib.suppress(OSError):
        if os.readlink(link) == target:
            return
    temporary = f"{link}-{secrets.token_hex(4)}"
    os.symlink(target, temporary)
    os.replace(temporary, link)  # another process may do the same


def try_once(what: str, facts, attempt: Callable[[], str | None]) -> str | None:
    """What ``attempt()`` finds wrong; "" or None if nothing, now or before with the same ``facts``.

    ``facts`` are anything that JSON has.
    """
    return try_each_once(what, [(facts, None)], lambda _: attempt())


def try_each_once(
    what: str, cases: list[tuple], attempt: Callable[[list], str | None]
) -> str | None:
    """What ``attempt`` finds wrong with those of several cases that are not known to be right.

    They succeed or fail together. A success is remembered by files of the private folder, named
    after ``what`` and the facts.

    Args:
        cases: pairs (facts, case); those with the same facts count once.
        attempt: called once, with a list of the cases that are left, if there are any.

    Returns:
        What ``attempt`` returns; "" or None if nothing is wrong.
    """
    left = {f"{what}-{digest(json.dumps(facts))}-works": case for facts, case in cases}
    with contextlib.suppress(OSError, Problem):
        folder = private_folder()
        left = {name: case for name, case in left.items() if not (folder / name).exists()}
    problem = attempt(list(left.values())) if left else None
    if not problem:
        with contextlib.suppress(OSError, Problem):
            for name in left:
                (private_folder() / name).touch()
    return problem


def identity(program: str) -> list:
    """Where a program is, and when it was last changed."""
    path = os.path.realpath(shutil.which(program) or program)
    return [path, os.path.getmtime(path) if os.path.exists(path) else None]


def digest(text: str) -> str:
    """The beginning of a text's digest, for file names."""
    return files.digest(os.fsencode(text))[:12]
