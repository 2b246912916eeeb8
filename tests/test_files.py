"""Files that change as a set, and folders kept to one run."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from siren import files
from siren.files import Change, FolderInUse, digest, locked, recover, write_bytes


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def old_set(folder):
    for name in "ab":
        (folder / name).write_bytes(b"old " + name.encode())
    return content(folder)


def test_a_change_is_whole(tmp_path):
    old_set(tmp_path)
    with Change(tmp_path) as change:
        change.write("a", b"new a")
        change.write("c", b"new c")
        change.remove("b")
        change.remove("never there")
        change.commit()
    assert change.digests == {"a": digest(b"new a"), "c": digest(b"new c")}
    assert content(tmp_path) == {"a": b"new a", "c": b"new c"}


@pytest.mark.parametrize("when", ["before", "full disk", "a folder in the way"])
def test_a_change_that_fails_leaves_everything_as_it_was(tmp_path, monkeypatch, when):
    before = old_set(tmp_path)
    with pytest.raises((KeyboardInterrupt, OSError)), Change(tmp_path) as change:
        change.write("a", b"new a")
        if when == "before":
            raise KeyboardInterrupt
        if when == "a folder in the way":
            (tmp_path / "c").mkdir()
            change.write("c", b"new c")
            change.commit()
        monkeypatch.setattr(files.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "full")))
        change.write("b", b"new b")
    if when == "a folder in the way":
        (tmp_path / "c").rmdir()
    assert content(tmp_path) == before


@pytest.mark.parametrize("error", [SystemExit, OSError])
@pytest.mark.parametrize("renames", [0, 1])
def test_a_change_that_is_cut_short_is_completed(tmp_path, monkeypatch, renames, error):
    """By an error of the system, or as after kill -9: nothing more of the process runs."""
    old_set(tmp_path)
    original, left = os.replace, renames + 1  # the journal is the first one

    def replace(*paths):
        nonlocal left
        if left == 0:
            raise error
        left -= 1
        original(*paths)

    change = Change(tmp_path)
    change.write("a", b"new a")
    change.write("b", b"new b")
    monkeypatch.setattr(files.os, "replace", replace)
    with pytest.raises(error), change if error is OSError else contextlib.nullcontext():
        change.commit()
    monkeypatch.undo()
    recover(tmp_path)
    assert content(tmp_path) == {"a": b"new a", "b": b"new b"}


def test_what_was_not_committed_is_removed_and_nothing_else(tmp_path):
    others = [".backup-2024", ".preview.png-17", ".siren-1-part", "x.part", ".siren-1-0.part"]
    for name in others:
        (tmp_path / name).touch()
    (tmp_path / ".siren-12-0123456789abcdef.part").mkdir()
    (tmp_path / ".cache-1").mkdir()
    Change(tmp_path).write("a", b"never finished")
    recover(tmp_path)
    names = {".siren-12-0123456789abcdef.part", ".cache-1", *others}
    assert {path.name for path in tmp_path.iterdir()} == names


@pytest.mark.parametrize(
    "journal",
    [
        b"",
        b"[]",
        b"[" * 100000,
        b'{"rename": {}, "remove": ["../precious"]}',
        b'{"rename": {"mine": "a"}, "remove": []}',
        b'{"rename": {".siren-1-0123456789abcdef.part": "../precious"}, "remove": []}',
        b'{"rename": {".siren-1-0123456789abcdef.part": 7}, "remove": []}',
    ],
)
def test_a_journal_that_nobody_wrote_does_nothing(tmp_path, journal):
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "precious").write_text("kept")
    (folder / "mine").write_text("kept")
    (folder / ".siren-commit.json").write_bytes(journal)
    recover(folder)
    assert (tmp_path / "precious").read_text() == "kept"
    assert (folder / "mine").read_text() == "kept"


def test_a_file_is_written_whole_through_no_link(tmp_path):
    (tmp_path / "precious").write_bytes(b"kept")
    (tmp_path / "link").symlink_to("precious")
    write_bytes(tmp_path / "link", b"new")
    assert content(tmp_path) == {"precious": b"kept", "link": b"new"}
    with pytest.raises(OSError):
        write_bytes(tmp_path / "no folder" / "file", b"new")


def test_the_lock_of_a_folder_touches_no_file_of_others(tmp_path):
    (tmp_path / "precious").write_bytes(b"kept")
    path = tmp_path / ".lock"
    path.symlink_to("precious")
    with pytest.raises(OSError), locked(tmp_path):
        pass
    assert (tmp_path / "precious").read_bytes() == b"kept"
    path.unlink()
    for foreign in (b"apt's\n", b"12\nno digest\n"):
        path.write_bytes(foreign)
        with pytest.raises(OSError, match="not this program's"), locked(tmp_path):
            pass
        assert path.read_bytes() == foreign
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OSError), locked(tmp_path):
        pass


@pytest.mark.parametrize("files", ["", f"{digest(b'old')} preview.png\n"])
def test_the_lock_of_a_killed_run_is_used_again(tmp_path, files):
    """Earlier versions listed files in it."""
    (tmp_path / ".lock").write_text(f"4\n{files}")
    with locked(tmp_path):
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_one_runs_at_a_time(tmp_path):
    with locked(tmp_path):
        reason = f"process {os.getpid()} is working"
        with pytest.raises(FolderInUse, match=reason), locked(tmp_path):
            pass
    with locked(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_process_that_died_is_free(tmp_path):
    code = (
        "import os, sys, pathlib; sys.path.insert(0, sys.argv[1])\n"
        "from siren.files import locked\n"
        "with locked(pathlib.Path(sys.argv[2])):\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    root = str(Path(__file__).resolve().parents[1])
    # By way of a shell: Jittor, in this process, takes a child's violent death for its own.
    command = shlex.join([sys.executable, "-c", code, root, str(tmp_path)])
    died = subprocess.run(["sh", "-c", f"{command}; exit $(($? - 128))"])
    assert died.returncode == 9
    assert (tmp_path / ".lock").exists()
    with locked(tmp_path):
        pass
