"""Runs that are killed, interrupted, doubled or damaged."""

import json
from pathlib import Path
from types import SimpleNamespace

import jittor as jt
import numpy as np
import pytest

from siren.engine import reference
from siren.engine.fused import Fused
from siren.images import read_image
from siren.network import Siren
from siren.priors import StructureVariation, TotalVariation
from siren.tasks.fit import Fit
from siren.tasks.inpaint import Inpaint
from siren.training import checkpoint, loop
from siren.training.checkpoint import Checkpoint, StateError, fingerprint
from siren.training.optimizer import Adam, Muon, linear


class Killed(Exception):
    """Stands for the end of the process."""


def start(image, kind, killed_at=None):
    """(network, task, engine, optimizer) of a run that ends abruptly when it computes that loss."""
    if kind == "adam":
        network, task, engine = Siren(hidden_features=24, hidden_layers=1), Fit(image), reference
        optimizer = Adam([network.flat], 1e-3)
    else:
        network, engine = Siren(hidden_features=24, hidden_layers=2, omega_0=10.0), Fused()
        prior, hold_out = TotalVariation(1e-3, 0), 0.1
        if kind == "structure":
            prior, hold_out = StructureVariation(image.shape[:2], 1e-3, 0), 0
        task = Inpaint(image, 150, 0, prior, hold_out)
        optimizer = Muon(network, engine, 5e-3, 1e-3)
    original, calls = task.loss, 0

    def loss(network, batch, engine):
        nonlocal calls
        # a step's loss, and not that of the points held out or of a validation on all points
        if len(batch.target) == len(task.points) and not jt.flags.no_grad:
            calls += 1
            if calls == killed_at:
                raise Killed
        return original(network, batch, engine)

    task.loss = loss
    return network, task, engine, optimizer


@pytest.mark.parametrize("kind", ["adam", "muon, prior, held-out points", "structure"])
def test_a_killed_run_goes_on_to_the_same_network(data, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(checkpoint, "SAVE_EVERY", -1.0)  # after every epoch
    image = read_image(data / "camera.png", 1, (14, 18))
    epochs = 40

    network, task, engine, optimizer = start(image, kind)
    whole = loop.train(network, task, engine, epochs, optimizer, linear)
    expected = network.flat.numpy()

    for killed_at in (18, 10, 1):  # counted anew in every process
        network, task, engine, optimizer = start(image, kind, killed_at)
        ours = Checkpoint(tmp_path, {"lr": 1})
        ours.state = ours.load() if ours.path.exists() else None
        with pytest.raises(Killed):
            loop.train(network, task, engine, epochs, optimizer, linear, ours)
    network, task, engine, optimizer = start(image, kind)
    ours = Checkpoint(tmp_path, {"lr": 1})
    ours.state = ours.load()
    assert ours.state.epoch == 17 + 9
    result = loop.train(network, task, engine, epochs, optimizer, linear, ours)
    assert (network.flat.numpy() == expected).all()
    assert result.best.epoch == whole.best.epoch
    ours, theirs = (
        [(state.epoch, state.loss, state.validation, state.psnr) for state in run.history]
        for run in (result, whole)
    )
    assert ours == theirs


def test_a_full_disk_does_not_end_the_training(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(checkpoint, "SAVE_EVERY", -1.0)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_bytes", full)
    network, task, engine, optimizer = start(read_image(data / "camera.png", 1, (14, 18)), "adam")
    ours = Checkpoint(tmp_path, {})
    result = loop.train(network, task, engine, 3, optimizer, linear, ours)
    assert result.ended == "finished"
    assert "No space left on device" in capsys.readouterr().err


def restore(ours, epochs=2, steps=2, parameters=3, optimizer=((3,),), random=True):
    """Load a state into a training; by default into that of ``saved``."""
    network = SimpleNamespace(flat=jt.zeros((parameters,)))
    variables = SimpleNamespace(vars=lambda: [jt.zeros(shape) for shape in optimizer])
    task = SimpleNamespace(prior=None, points=SimpleNamespace(shape=(2, 2)))
    task.random = np.random.default_rng() if random else None
    ours.state = ours.load()
    run = loop._Run(network, task, reference, variables, epochs)
    return run.restore(ours, epochs * steps, steps)


def saved(tmp_path):
    """The checkpoint of a state at the end of its training."""
    ours = Checkpoint(tmp_path, {"lr": 0.1, "data": "a"})
    array = np.arange(3, dtype=np.float32)
    random = json.dumps(np.random.default_rng(0).bit_generator.state)
    history = [[epoch, 1.0, None, 30.5, 2.0] for epoch in range(3)]
    arrays = {"flat": array, "best": array, "lowest": array[:1], "optimizer_0": array}
    arrays["guide"] = array[:0]
    ours.save(checkpoint.State(5, arrays, random, history, 2.5))
    return ours


def change(path, change_arrays, change_record=lambda _: None):
    with np.load(path) as file:
        arrays = dict(file)
    record = json.loads(str(arrays["record"]))  # plain JSON
    change_record(record)
    arrays["record"] = np.array(json.dumps(record))
    change_arrays(arrays)
    np.savez(path, **arrays)


def test_a_state_fits_its_training_alone(tmp_path):
    ours = saved(tmp_path)
    assert restore(ours) == 5
    for name, *others in (
        ("epochs", 1),
        ("steps", 1, 5),
        ("parameters", 4),
        ("optimizer", [(4,)], []),
        ("random", False),
    ):
        for other in others:
            with pytest.raises(StateError, match="damaged"):
                restore(ours, **{name: other})


DAMAGED_ARRAYS = {
    "flat": (np.zeros(2, np.float32), np.zeros((3, 1), np.float32), np.zeros(3), [np.nan] * 3),
    "best": (np.zeros(2, np.float32), np.float32([1, 2, np.inf])),
    "lowest": (np.array(["a"]), np.zeros(2, np.float32)),
    "optimizer_0": (np.zeros(2, np.float32), np.zeros(3, int)),
    "guide": (np.zeros(2, np.float32), np.array(["a"])),
    "record": (np.array("{}"), np.array([Path("/trap")], object), np.array("[" * 100000)),
}
DAMAGED_RECORDS = {
    "step": (99999, -1, 2.5, True, 3, None),
    "history": (None, []),
    "random": ("",),
    "identity": ([1], None, "a"),
    "seconds": ("long", None),
}


@pytest.mark.parametrize("name", [*DAMAGED_ARRAYS, *DAMAGED_RECORDS])
def test_damaged_states_are_refused(tmp_path, name):
    ours = saved(tmp_path)
    whole = ours.path.read_bytes()
    for value in (*DAMAGED_ARRAYS.get(name, ()), *DAMAGED_RECORDS.get(name, ())):
        ours.path.write_bytes(whole)
        if name in DAMAGED_ARRAYS:
            change(ours.path, lambda arrays, value=value: arrays.update({name: value}))
        else:
            change(ours.path, dict, lambda record, value=value: record.update({name: value}))
        with pytest.raises(StateError, match=r"state\.npz (cannot be read|is damaged)"):
            restore(ours)


def test_a_state_of_another_run_is_not_continued(tmp_path):
    saved(tmp_path)
    for identity, reason in (
        ({"lr": 0.2, "data": "a"}, "lr 0.2 is not that of the earlier run, 0.1"),
        ({"lr": 0.1, "data": "b"}, "data b is not that of the earlier run, a"),
    ):
        with pytest.raises(StateError, match=reason):
            Checkpoint(tmp_path, identity).load()
    with pytest.raises(StateError, match="no interrupted run"):
        Checkpoint(tmp_path / "elsewhere", {}).load()


def test_states_with_damaged_bytes_are_refused(tmp_path):
    ours = saved(tmp_path)
    content = ours.path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        broken = bytearray(content[: rng.integers(0, len(content))])
        if rng.random() < 0.5:
            broken = bytearray(content)
            broken[rng.integers(len(broken))] ^= 1 << rng.integers(8)
        ours.path.write_bytes(broken)
        try:
            assert ours.load().step == 5  # a flipped bit that no reader looks at
        except StateError:
            refused += 1
    assert refused > 30


def test_fingerprints_tell_arrays_apart():
    a = np.arange(6, dtype=np.float32)
    assert fingerprint(a) == fingerprint(a.copy())
    others = (a + 1, a.reshape(2, 3), a.astype(np.float64), a[:5])
    assert len({fingerprint(x) for x in (a, *others)}) == 5
