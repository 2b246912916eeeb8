"""Files that are written whole, sets of them that change together, and folders kept to one run.

Everything that is not finished has a name that only this program gives, so that clearing up after a
killed run touches nothing else.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import stat
from pathlib import Path

LOCK = ".lock"
_JOURNAL = ".siren-commit.json"  # what a change has still to rename and remove
_PART = re.compile(r"\.siren-\d+-[0-9a-f]{16}\.part")  # a file that is not whole yet
_LOCK_CONTENT = re.compile(rb"\d+\n(?:[0-9a-f]{64} [^\n]+\n)*")


class FolderInUse(Exception):
    """Another run works in the folder; the message names its process."""


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` aside and rename it to ``path``; raises OSError, leaving nothing behind."""
    aside = _write_aside(path.parent, content)
    try:
        os.replace(aside, path)
    except BaseException:
        _discard(aside)
        raise


def digest(content: bytes) -> str:
    """SHA-256 of ``content``, by which a file is recognised as one that this program wrote."""
    return hashlib.sha256(content).hexdigest()


def file_digest(path: Path) -> str | None:
    """``digest`` of a regular file, read a piece at a time; None where there is none to read."""
    total = hashlib.sha256()
    try:
        with open_regular(path) as file:
            while part := file.read(1 << 20):
                total.update(part)
    except OSError:
        return None
    return total.hexdigest()


def open_regular(path: Path):
    """Open a regular file to read its bytes; OSError for anything else, on which it never waits."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return open(descriptor, "rb")
    os.close(descriptor)
    raise OSError(f"{path} is not a regular file")


class Change:
    """A set of files of one folder that changes as one: all are new, or all are as before.

    ``write`` puts contents aside, ``commit`` renames them. Where the process dies between two of
    these renames, ``recover`` completes them. Leaving the context without a commit discards all.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.parts: dict[str, Path] = {}
        self.digests: dict[str, str] = {}
        self.removals: list[str] = []
        self.committed = False

    def __enter__(self):
        """Begin with an empty set."""
        return self

    def __exit__(self, *_):
        """Discard what was not committed."""
        for aside in self.parts.values():
            _discard(aside)

    def write(self, name: str, content: bytes) -> None:
        """Put ``content`` aside for the file called ``name``. Raises OSError."""
        self.parts[name] = _write_aside(self.folder, content)
        self.digests[name] = digest(content)

    def remove(self, name: str) -> None:
        """The file called ``name`` is gone after the commit."""
        self.removals.append(name)

    def commit(self) -> None:
        """Make the change. Raises OSError, with everything as before, where it is impossible."""
        for name in (*self.parts, *self.removals):
            if (self.folder / name).is_dir():
                raise IsADirectoryError(f"{self.folder / name} is a folder")
        journal = {
            "rename": {aside.name: name for name, aside in self.parts.items()},
            "remove": self.removals,
        }
        write_bytes(self.folder / _JOURNAL, json.dumps(journal).encode())
        self.committed = True
        _complete(self.folder, journal)
        self.parts = {}


def recover(folder: Path) -> None:
    """Complete what a killed run was committing, and remove what it had not finished writing.

    Nobody else may be writing into ``folder``. Raises OSError.
    """
    with contextlib.suppress(OSError, ValueError, RecursionError):
        with open_regular(folder / _JOURNAL) as file:
            journal = json.loads(file.read())
        if _is_journal(journal):
            _complete(folder, journal)
    for entry in os.scandir(folder):
        if _PART.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
            _discard(folder / entry.name)


def _is_journal(journal) -> bool:
    """Whether it is one that ``Change.commit`` wrote: it names files of its own folder only."""
    if not isinstance(journal, dict) or journal.keys() != {"rename", "remove"}:
        return False
    renames, removals = journal["rename"], journal["remove"]
    if not isinstance(renames, dict) or not isinstance(removals, list):
        return False
    names = [*renames.values(), *removals]
    return all(map(_PART.fullmatch, renames)) and all(
        isinstance(name, str) and name == os.path.basename(name) for name in names
    )


def _complete(folder: Path, journal) -> None:
    for aside, name in journal["rename"].items():
        with contextlib.suppress(FileNotFoundError):  # renamed before the process died
            os.replace(folder / aside, folder / name)
    for name in journal["remove"]:
        (folder / name).unlink(missing_ok=True)
    (folder / _JOURNAL).unlink(missing_ok=True)


def _write_aside(folder: Path, content: bytes) -> Path:
    aside = folder / f".siren-{os.getpid()}-{secrets.token_hex(8)}.part"
    try:
        with open(aside, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        _discard(aside)
        raise
    return aside


def _discard(aside: Path) -> None:
    with contextlib.suppress(OSError):
        aside.unlink()


@contextlib.contextmanager
def writable(folder: Path):
    """Within its context ``folder`` exists and can be written into; raises OSError if it cannot.

    Folders that had to be created are removed at the end if they are empty then.
    """
    missing = [parent for parent in (folder, *folder.parents) if not os.path.lexists(parent)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _discard(_write_aside(folder, b""))
        yield
    finally:
        for created in missing:
            with contextlib.suppress(OSError):
                created.rmdir()


class Lock:
    """A lock that this process holds on a folder.

    It keeps a record of the files that a run has written there and not committed, by name and
    digest, which outlives the process: the next run knows them for this program's own.
    """

    def __init__(self, descriptor: int | None, before: bytes = b""):
        self.descriptor = descriptor
        self.lines = before.splitlines(keepends=True)[1:]

    def record(self, name: str, content: bytes) -> None:
        """Remember that ``name`` is about to be written with ``content``. Raises OSError."""
        line = f"{digest(content)} {name}\n".encode()
        if self.descriptor is None or line in self.lines:
            return
        self.lines.append(line)
        os.pwrite(self.descriptor, line, os.fstat(self.descriptor).st_size)

    def recorded(self) -> list[tuple[str, str]]:
        """Pairs (name, digest) of this run and of killed ones."""
        fields = [line.decode(errors="replace").rstrip("\n").split(" ", 1) for line in self.lines]
        return [(name, content) for content, name in fields]


@contextlib.contextmanager
def locked(folder: Path):
    """Keep ``folder``, which must exist, to this process; yields the ``Lock``.

    Raises FolderInUse where another process has it, OSError where no lock can be made. The system
    frees the lock of a process that dies, so that none is ever stale. A file of that name which
    this program did not write serves as a lock too, but stays as it is.
    """
    path = folder / LOCK
    descriptor, ours = _acquire(path, folder)
    try:
        before = os.pread(descriptor, 1 << 24, 0)
        lock = Lock(None)
        if ours or _LOCK_CONTENT.fullmatch(before):
            ours = True
            lock = Lock(descriptor, before)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b"%d\n" % os.getpid() + b"".join(lock.lines), 0)
        yield lock
    finally:
        with contextlib.suppress(OSError):
            if ours and os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                path.unlink()
        os.close(descriptor)


def _acquire(path: Path, folder: Path) -> tuple[int, bool]:
    """(descriptor of the file at ``path``, locked; whether it had to be created)."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    while True:
        created = False
        try:
            descriptor = os.open(path, flags)
        except FileNotFoundError:
            try:
                descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o644)
            except FileExistsError:
                continue  # another process was quicker, or it is a link to nowhere
            created = True
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(f"its {LOCK} is no regular file")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 32, 0).split(b"\n")[0].decode(errors="replace")
            os.close(descriptor)
            raise FolderInUse(
                f"process {owner if owner.isdigit() else 'unknown'} is working in {folder}"
            ) from None
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                return descriptor, created
        os.close(descriptor)  # its owner removed it in between: this is not the folder's lock
