"""Orthogonalisation, against the singular value decomposition in float64."""

from __future__ import annotations

import os

import jittor as jt
import numpy as np
import pytest
from program import python

from siren.engine import reference
from siren.engine.trial import orthogonalized
from siren.runtime.machine import allow_amx

LOW, LEAST, LARGEST = 0.01, 0.71, 1.28  # singular values from LOW to 1 end between the others
SAFETY = 1.01


def best_polynomial(low, high):
    """(a, b, c) with the least maximum e of |1 - a x - b x^3 - c x^5| on [low, high], and e.

    Remez's algorithm: the error of the best has four extremes of equal size and alternating sign,
    the ends of the interval and the two zeros of the derivative.
    """
    points = np.linspace(low, high, 4)
    for _ in range(50):
        signs = [1, -1, 1, -1]
        system = np.stack([points, points**3, points**5, signs], axis=1)
        a, b, c, error = np.linalg.solve(system, np.ones(4))
        inner = np.sqrt(np.sort(np.roots([5 * c, 3 * b, a]).real))
        points = np.array([low, *inner, high])
    return (a, b, c), abs(error)


def composition(polynomials, x):
    for a, b, c in polynomials:
        x = a * x + b * x**3 + c * x**5
    return x


def test_the_polynomials_are_the_best_ones():
    polynomials = reference.POLYNOMIALS
    interval = LOW, 1.0
    for step, ours in enumerate(polynomials):
        exact, error = best_polynomial(*interval)
        safety = 1 if step == len(polynomials) - 1 else SAFETY
        exact = [x / safety**power for x, power in zip(exact, (1, 3, 5))]
        np.testing.assert_allclose(ours, exact, rtol=2e-6)
        interval = 1 - error, 1 + error
    x = np.geomspace(LOW, 1 + 1e-5, 100_001)
    y = composition(polynomials, x)
    assert y.min() >= LEAST
    assert y.max() <= LARGEST
    below = composition(polynomials, np.linspace(0, LOW, 1001))
    assert (np.diff(below) > 0).all()


def with_singular_values(rng, values, n):
    """float32 matrices (len(values), n, n) with these singular values, and random vectors."""
    left, right = np.linalg.qr(rng.normal(size=(2, len(values), n, n)))[0]
    return (left * np.asarray(values)[:, None, :] @ right).astype(np.float32)


def exact(matrices):
    """U f(S) V^T in float64."""
    return orthogonalized(matrices.astype(np.float64))


def singular_values(matrices):
    return np.linalg.svd(matrices.astype(np.float64), compute_uv=False)


@pytest.mark.parametrize("n", [1, 5, 37, 100, 256, 300])
def test_singular_vectors_stay_and_singular_values_end_near_one(engine, n):
    """For one value and for evenly spread logarithms down to ``LOW``; for random matrices."""
    rng = np.random.default_rng(n)
    # The Schatten-8 norm of this spread is up to 1.5 times the largest.
    matrices = with_singular_values(rng, np.geomspace([1, 1], [1, 2 * LOW], n, axis=1), n)
    matrices = np.concatenate([matrices, rng.normal(size=(1, n, n)).astype(np.float32)])
    expected = exact(matrices)
    ours = engine.orthogonalize(jt.array(matrices)).numpy()
    assert np.abs(ours - expected).max() < 2e-3
    singular = singular_values(ours)
    np.testing.assert_allclose(singular, singular_values(expected), atol=2e-3)
    assert singular.max() < LARGEST + 1e-3
    assert singular[:2].min() > LEAST - 1e-3


def test_random_matrices_come_nearer_to_orthogonal_ones_than_with_constant_coefficients(engine):
    """Those of Jordan et al. 2024, in as many iterations."""
    matrices = np.random.default_rng(0).normal(size=(3, 256, 256)).astype(np.float32)

    def distance(results):
        return np.abs(singular_values(results) - 1).mean()

    x = matrices / np.linalg.norm(matrices, axis=(1, 2), keepdims=True)
    for _ in range(len(reference.POLYNOMIALS)):
        gram = x @ x.transpose(0, 2, 1)
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    assert distance(engine.orthogonalize(jt.array(matrices)).numpy()) < distance(x)


@pytest.mark.parametrize("scale", [1e-36, 1e-20, 1e20, 1e34])
def test_the_scale_of_a_matrix_does_not_matter(engine, scale):
    matrices = np.random.default_rng(1).normal(size=(2, 64, 64)).astype(np.float32)
    matrices[1] *= np.float32(scale)
    ours = engine.orthogonalize(jt.array(matrices)).numpy()
    assert np.abs(ours - exact(matrices)).max() < 1e-3


def test_zeros_stay_zeros_and_spare_the_others(engine):
    matrices = np.random.default_rng(2).normal(size=(3, 40, 40)).astype(np.float32)
    matrices[1] = 0
    ours = engine.orthogonalize(jt.array(matrices)).numpy()
    assert (ours[1] == 0).all()
    assert np.abs(ours[::2] - exact(matrices[::2])).max() < 1e-3


def test_rank_one(engine):
    rng = np.random.default_rng(3)
    u, v = rng.normal(size=(2, 50))
    matrices = np.outer(u, v)[None].astype(np.float32)
    ours = engine.orthogonalize(jt.array(matrices)).numpy()[0]
    direction = np.outer(u, v) / np.linalg.norm(u) / np.linalg.norm(v)
    factor = composition(reference.POLYNOMIALS, 1.0)
    assert np.abs(ours - factor * direction).max() < 1e-4


STEP = """
import hashlib
import siren
siren.start("cpu")
import jittor as jt, numpy as np
rng = np.random.default_rng(0)
network, engine = siren.Siren(hidden_features=130), siren.get_engine("fused", PRECISION)
muon, adam = siren.Muon(network, engine, 0.1, 0.1), siren.Adam([network.flat], 0.1, engine=engine)
for _ in range(3):
    gradient = jt.array(rng.normal(size=network.flat.shape).astype(np.float32))
    muon.step([gradient])
    adam.step([gradient])
print("DIGEST", hashlib.sha256(network.flat.numpy().tobytes()).hexdigest())
"""


@pytest.mark.soak
@pytest.mark.parametrize("precision", ["fp32", "bf16x2"])
def test_steps_are_the_same_bit_for_bit_with_any_number_of_threads(precision):
    if precision == "bf16x2" and not allow_amx():
        pytest.skip("there is no AMX")
    code = f"PRECISION = {precision!r}\n{STEP}"
    printed = [python(code, env={**os.environ, "OMP_NUM_THREADS": n}) for n in ("1", "2", "5")]
    assert len({output.split("DIGEST ")[1].strip() for output in printed}) == 1
