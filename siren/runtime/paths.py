"""Folders and files of our own, and names that a shell takes as they are.

Jittor hands paths to a shell, some of them without quotes. What lies in a folder whose name a
shell would split is therefore reached by a link with a plain name. Whoever could change that link,
or a script beside it, would run programs in the user's name: everything here lives in a folder that
belongs to this user and that nobody else can write.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import os
import re
import secrets
import shutil
import stat
import tempfile
from pathlib import Path

from siren.runtime.environment import user_environment
from siren.runtime.problem import RuntimeProblem

# Less than a shell allows: a comma or a colon would end a folder's name in -Wl,-rpath,FOLDER.
_PLAIN = re.compile(r"[\w./+=@%-]+", re.ASCII)


def home() -> str:
    """The user's home folder, absolute; raises RuntimeProblem where there is none."""
    folder = user_environment().get("HOME")
    if not folder:
        import pwd

        try:
            folder = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            raise RuntimeProblem(
                "The variable HOME is not set and this user has no home folder; set HOME to a "
                "folder that can be written."
            ) from None
    return os.path.abspath(folder)


def shell_safe(path: str | os.PathLike, folder: str = "") -> str:
    """Return ``path`` itself, or by a link where a shell would not take its name as it is.

    Args:
        path: an absolute path.
        folder: the folder that the link leads to, if it is not to lead to ``path`` itself.
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
    """Whether a shell, and Jittor's own splitting of commands, take ``path`` as one word."""
    return bool(_PLAIN.fullmatch(path))


def private_folder() -> Path:
    """A folder with a plain name that is ours and that nobody else can write."""
    folders = [folder / f"siren-{os.geteuid()}" for folder in _shared_folders()]
    with contextlib.suppress(RuntimeProblem):
        folders.insert(0, Path(home(), ".cache", "siren"))
    for folder in folders:
        if is_shell_safe(str(folder)) and make_private(folder):
            return folder
    return _fresh_folder()


def create_folder(folder: str | os.PathLike) -> None:
    """Create a folder and those above it, for this user alone, where they are missing."""
    folder = Path(folder)
    for each in [*reversed(folder.parents), folder]:
        if not os.path.lexists(each):
            with contextlib.suppress(FileExistsError):  # another process was faster
                os.mkdir(each, 0o700)


def make_private(folder: Path) -> bool:
    """Create a folder unless it is there; whether it is ours, and can be written by us alone."""
    try:
        create_folder(folder)
        status = os.lstat(folder)  # of a link, not of what it leads to
    except OSError:
        return False
    ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    private = ours and not status.st_mode & 0o022 and os.access(folder, os.W_OK | os.X_OK)
    return private and not _others_can_replace(folder)


def _others_can_replace(folder: Path) -> bool:
    """Whether another user owns a folder above this one, or may rename what lies in it."""
    trusted = {os.geteuid(), 0, os.stat("/").st_uid}  # in a container / may belong to "nobody"
    for parent in Path(os.path.realpath(folder)).parents:
        status = os.stat(parent)
        anyone = status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX
        if anyone or status.st_uid not in trusted:
            return True
    return False


def write_file(path: Path, text: str, mode: int = 0o600) -> Path:
    """Make sure that a file of a private folder has this text, whole at any moment."""
    with contextlib.suppress(OSError, ValueError):
        if path.read_text(encoding="utf8") == text and os.lstat(path).st_mode & 0o777 == mode:
            return path
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "w", encoding="utf8", errors="surrogateescape") as file:
        file.write(text)
    os.chmod(temporary, mode)
    os.replace(temporary, path)
    return path


def write_link(link: Path, target: str) -> Path:
    """Make sure that a link of a private folder leads to ``target``."""
    with contextlib.suppress(OSError):
        if os.readlink(link) == target:
            return link
    temporary = f"{link}-{secrets.token_hex(4)}"
    os.symlink(target, temporary)
    os.replace(temporary, link)  # another process may do the same
    return link


def digest(text: str) -> str:
    """A short name for a text, the same every time."""
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:12]


def _shared_folders() -> list[Path]:
    """Folders for temporary files with a plain name.

    /tmp comes first: TMPDIR may change from one job to the next, and Jittor compiles everything
    anew where a path has changed.
    """
    folders = ["/tmp", "/var/tmp"]
    with contextlib.suppress(OSError):  # there is none at all
        folders.append(tempfile.gettempdir())
    return [Path(folder) for folder in folders if is_shell_safe(folder)]


@functools.cache
def _fresh_folder() -> Path:
    """A new folder that this process removes again; Jittor compiles for it anew."""
    for place in _shared_folders():
        with contextlib.suppress(OSError):
            folder = Path(tempfile.mkdtemp(prefix="siren-", dir=place))
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            return folder
    raise RuntimeProblem(
        "There is no folder for temporary files: neither HOME, /tmp nor /var/tmp can be written; "
        "make one of them writable."
    )
