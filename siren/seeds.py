"""Random numbers for each purpose of a run, all from one seed and independent of each other.

NumPy's ``SeedSequence`` spreads a seed over the whole state of a generator, so that neighboring
seeds have nothing in common. What is drawn depends on the seed and the purpose alone: not on the
device, the number of processes, or anybody's global generator. Batches, whose points a device draws
itself, have hashes of their own (``samples.Batches``).
"""

from __future__ import annotations

import numpy as np

PIXELS, WEIGHTS, PRIOR = (), (1,), (2,)  # purposes: given pixels of inpaint, the first weights, ...


def generator(seed: int, purpose: tuple[int, ...]) -> np.random.Generator:
    """A PCG64 generator for ``purpose``, one of those above; ``seed`` is at least 0."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=purpose))
