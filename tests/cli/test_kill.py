"""A run that is killed again and again, at random moments, loses nothing and ends the same."""

import json
import os
import random
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
KILLS = 50
AT_ONCE = 2  # runs, of one thread each
# As main.py, but for a state every twentieth of a second instead of every thirty seconds.
PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from siren.training import checkpoint; "
    "checkpoint.SAVE_EVERY = 0.05; import main; sys.exit(main.main())"
)
OPTIONS = [
    *("--task", "inpaint", "--recipe", "tuned", "--points", "200", "--sidelength", "24"),
    *("--hidden_features", "32", "--epochs", "600", "--device", "cpu", "--preview_every", "100"),
]


def start(folder, *arguments):
    """Start a run by way of a shell: Jittor takes a child's violent death for its own."""
    command = [sys.executable, "-c", PROGRAM, str(ROOT), *OPTIONS, "--output_dir", str(folder)]
    script = f"{shlex.join([*command, *arguments])} & echo $!; wait $!; exit $(($? % 128))"
    return subprocess.Popen(
        ["sh", "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def check(folder):
    """Whatever lies in the folder is whole."""
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue  # the lock, and files that were being written
        if path.suffix == ".npz":
            with np.load(path) as file:
                assert all(np.isfinite(file[name]).all() for name in file.files if name != "record")
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix in (".png", ".gif"):
            Image.open(path).load()


def kill_often(whole, folder, longest, seed):
    """Kill runs in ``folder`` until there are enough: how many were killed, resumed and finished.

    ``longest`` is about how long a run takes.
    """
    rng = random.Random(seed)
    kills = resumed = finished = 0
    for _ in range(2 * KILLS // AT_ONCE):
        if kills == KILLS // AT_ONCE:
            break
        has_state = (folder / "state.npz").exists()
        resumed += has_state
        began = time.monotonic()
        process = start(folder, *["--resume"] * has_state)
        pid = process.stdout.readline().strip()
        try:
            process.wait(timeout=rng.uniform(0.3, 1.0) * longest)
        except subprocess.TimeoutExpired:
            subprocess.run(["kill", "-9", pid], check=False)
            kills += 1
        status = process.wait()
        assert status in (0, 9)
        if status == 0:
            finished += 1
            if not has_state:  # the machine may be less busy than when it was measured
                longest = time.monotonic() - began
            with np.load(whole / "network.npz") as one, np.load(folder / "network.npz") as two:
                assert all((one[name] == two[name]).all() for name in one.files)
            assert {p.name for p in folder.iterdir()} == {p.name for p in whole.iterdir()}
        if folder.exists():
            check(folder)
    return kills, resumed, finished


@pytest.mark.soak
def test_fifty_kills(tmp_path):
    whole = tmp_path / "whole"
    for _ in range(2):  # Jittor compiles in the first one, the second one tells how long it takes
        began = time.monotonic()
        assert start(whole).wait() == 0
        longest = time.monotonic() - began
    with ThreadPoolExecutor(AT_ONCE) as pool:
        counts = [
            pool.submit(kill_often, whole, tmp_path / str(seed), longest, seed)
            for seed in range(AT_ONCE)
        ]
        kills, resumed, finished = map(sum, zip(*(count.result() for count in counts)))
    assert kills > KILLS // 2
    assert resumed > KILLS // 4
    assert finished > 1
