"""Atomic writing, sets of files that change together, folder locks, and files of others.

Unfinished files have names that only this program uses, so that cleaning up after a killed run
removes nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from siren.text import printable

LOCK = ".lock"
_JOURNAL = ".siren-commit.json"  # the files that a commit renames and removes
_TEMPORARY = re.compile(r"\.siren-\d+-[0-9a-f]{16}\.part")  # name of an unfinished file
# The number of a process; earlier versions listed files below it.
_LOCK_CONTENT = re.compile(rb"(?:\d+\n(?:[0-9a-f]{64} [^\n]+\n)*)?")


class FolderInUse(Exception):
    """Another run uses the folder; the message names its process."""


def write_bytes(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Write ``path`` atomically: a temporary file, then a rename.

    ``mode`` has the new file's permissions, less the umask. Raises OSError, and then leaves no
    temporary file.
    """
    temporary = _write_temporary(path.parent, content, mode)
    try:
        os.replace(temporary, path)
    except BaseException:
        _discard(temporary)
        raise


def digest(content: bytes) -> str:
    """SHA-256 of ``content``; by it the program recognizes the files that it wrote."""
    return hashlib.sha256(content).hexdigest()


def file_digest(path: Path) -> str | None:
    """``digest`` of a regular file, read in blocks; None if there is none or it is unreadable."""
    sha = hashlib.sha256()
    try:
        with open_regular(path) as file:
            while block := file.read(1 << 20):
                sha.update(block)
    except OSError:
        return None
    return sha.hexdigest()


def open_regular(path: str | Path):
    """Open a regular file for reading bytes; OSError for anything else, without ever blocking."""
    return open(path, "rb", opener=_open_descriptor)


def _open_descriptor(path: str | Path, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "not a regular file", path)


class ForeignFile(Exception):
    """A file that this program did not write, or that was changed since, is in the way."""

    def __init__(self, path: Path, what: str = "is not as this program wrote it"):
        super().__init__(f"{printable(str(path))} {what}; move it")


def check_mark(path: Path, has_mark: Callable[[BinaryIO], bool]) -> None:
    """Raise ForeignFile if there is a file at ``path``, unless it ``has_mark``.

    A link is its user's own.
    """
    try:
        with open_regular(path) as file:
            ours = has_mark(file) and not path.is_symlink()
    except (OSError, ValueError):
        ours = not os.path.lexists(path)
    if not ours:
        raise ForeignFile(path)


def ends_with(file: BinaryIO, mark: bytes) -> bool:
    """Whether ``mark`` is at the end of a file: behind that of a PNG, where no reader looks."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - len(mark)))
    return file.read() == mark


class Change(contextlib.AbstractContextManager):
    """A set of files in one folder that change together: either all of them or none.

    ``write`` creates temporary files and ``commit`` renames them. If the process dies between two
    of these renames, ``recover`` completes them. Leaving the context without a commit discards the
    change.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.temporaries: dict[str, Path] = {}
        self.digests: dict[str, str] = {}
        self.removals: list[str] = []

    def __exit__(self, *_):
        for temporary in self.temporaries.values():
            _discard(temporary)

    def write(self, name: str, content: bytes) -> None:
        """Write ``content`` to a temporary file for ``name``. Raises OSError."""
        self.temporaries[name] = _write_temporary(self.folder, content)
        self.digests[name] = digest(content)

    def remove(self, name: str) -> None:
        """Have the commit remove the file called ``name``."""
        self.removals.append(name)

    def commit(self) -> None:
        """Make the change. Raises OSError if it is impossible; then no file has changed."""
        for name in (*self.temporaries, *self.removals):
            if (self.folder / name).is_dir():
                raise IsADirectoryError(f"{self.folder / name} is a folder")
        journal = {
            "rename": {temporary.name: name for name, temporary in self.temporaries.items()},
            "remove": self.removals,
        }
        write_bytes(self.folder / _JOURNAL, json.dumps(journal).encode())
        self.temporaries = {}  # from now on they are the journal's
        _complete(self.folder, journal)


def recover(folder: Path) -> None:
    """Complete the commit of a killed run, and remove its temporary files.

    The caller holds the lock of ``folder``. Raises OSError.
    """
    with contextlib.suppress(Exception):  # of a journal that is missing, or not one of a commit
        with open_regular(folder / _JOURNAL) as file:
            journal = json.loads(file.read())
        renames, removals = dict(journal["rename"]), list(journal["remove"])
        names = [*renames.values(), *removals]  # of files in this folder, and of no others
        if all(map(_TEMPORARY.fullmatch, renames)) and names == list(map(os.path.basename, names)):
            _complete(folder, journal)
    for entry in os.scandir(folder):
        if _TEMPORARY.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
            _discard(folder / entry.name)


def _complete(folder: Path, journal) -> None:
    for temporary, name in journal["rename"].items():
        with contextlib.suppress(FileNotFoundError):  # renamed before the process died
            os.replace(folder / temporary, folder / name)
    for name in journal["remove"]:
        (folder / name).unlink(missing_ok=True)
    (folder / _JOURNAL).unlink(missing_ok=True)


def _write_temporary(folder: Path, content: bytes, mode: int = 0o666) -> Path:
    temporary = folder / f".siren-{os.getpid()}-{secrets.token_hex(8)}.part"
    try:
        with open(temporary, "xb", opener=lambda *file: os.open(*file, mode)) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        _discard(temporary)
        raise
    return temporary


def _discard(temporary: Path) -> None:
    with contextlib.suppress(OSError):
        temporary.unlink()


@contextlib.contextmanager
def open_folder(folder: Path):
    """Create ``folder`` if it is missing, lock it, and complete the commit of a killed run.

    Raises FolderInUse, and OSError if the folder is not writable. At the end, folders that were
    created are removed if they are empty.
    """
    missing = [parent for parent in (folder, *folder.parents) if not os.path.lexists(parent)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _discard(_write_temporary(folder, b""))
        with locked(folder):
            recover(folder)
            yield
    finally:
        for created in missing:
            with contextlib.suppress(OSError):
                created.rmdir()


@contextlib.contextmanager
def locked(folder: Path):
    """Lock ``folder``, which must exist, for this process.

    Raises FolderInUse if another process has locked it, OSError if no lock can be made or its file
    is not this program's. The system frees the lock of a process that dies, so a lock is never
    stale.
    """
    path = folder / LOCK
    descriptor = _acquire(path)
    try:
        if not _LOCK_CONTENT.fullmatch(os.pread(descriptor, 1 << 24, 0)):
            raise OSError(f"its {LOCK} is not this program's")
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
            yield
        finally:
            with contextlib.suppress(OSError):
                if _is_at(path, descriptor):
                    path.unlink()
    finally:
        os.close(descriptor)


def _acquire(path: Path) -> int:
    """Open and lock the file at ``path``, which is created if it is missing."""
    while True:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o644)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(f"its {LOCK} is not a regular file")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 32, 0).split(b"\n")[0].decode(errors="replace")
            os.close(descriptor)
            owner = owner if owner.isdigit() else "unknown"
            raise FolderInUse(f"process {owner} is working in {path.parent}") from None
        if _is_at(path, descriptor):
            return descriptor
        os.close(descriptor)  # its owner has removed it meanwhile, so it locks nothing


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the open file is still the one at ``path``."""
    with contextlib.suppress(FileNotFoundError):
        return os.stat(path).st_ino == os.fstat(descriptor).st_ino
    return False
