"""The processor's floating-point state is handed back as it was found, in every thread."""

import pytest
from program import python

# What happens in the process, one after the other; after each, subnormal numbers have to survive in
# the main thread, a thread that is older than everything, a new one, and a forked process.
CODE = """
import os, queue, threading
import numpy as np

def survives():
    return float((np.array([5e-324]) * 1.0)[0]) == 5e-324 and float(
        (np.array([1e-45], np.float32) * np.float32(1))[0]) != 0

asked, answered = queue.Queue(), queue.Queue()
def old():
    while asked.get():
        answered.put(survives())
threading.Thread(target=old, daemon=True).start()

def check(stage):
    asked.put(True)
    results = [survives(), answered.get()]
    new = threading.Thread(target=lambda: results.append(survives()))
    new.start()
    new.join()
    child = os.fork()
    if child == 0:
        os._exit(0 if survives() else 1)
    results.append(os.waitpid(child, 0)[1] == 0)
    print(stage, *results, flush=True)

check("at the start")
import siren, jittor as jt
check("after the import")
network = siren.Siren(hidden_features=32)
image = np.random.default_rng(0).uniform(-1, 1, (16, 16, 1)).astype(np.float32)
task = siren.Poisson(image, "forward") if ENGINE == "fused" else siren.Fit(image)
engine = siren.get_engine(ENGINE)
siren.train(network, task, engine, 3, siren.Adam([network.flat], 1e-3))
check("after training")
(jt.array(np.ones(4, np.float32)).sin() * 3 + 1).numpy()
check("after an operation of Jittor")
"""


@pytest.mark.parametrize("engine", ["fused", "reference"])
def test_subnormal_numbers_survive(engine):
    printed = python(f"ENGINE = {engine!r}\n{CODE}")
    lines = [line for line in printed.splitlines() if line.endswith(("True", "False"))]
    stages = "at the start", "after the import", "after training", "after an operation of Jittor"
    assert lines == [f"{stage} True True True True" for stage in stages]
