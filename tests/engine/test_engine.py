"""The fused engine: its kernels compiled for several instruction sets, and its Jittor binding."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import itertools
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jittor as jt
import numpy as np
import pytest
from numpy.ctypeslib import as_ctypes
from numpy_siren import (
    errors_of_gradient,
    float64,
    layers_of,
    relative_error,
    squared_error,
    streams,
    value,
)

from siren.engine import fused, get_engine, reference, trial
from siren.engine import workload as workload_module
from siren.engine.fused import Fused
from siren.engine.reference import AdamNumbers, MuonNumbers
from siren.engine.workload import Workload, trial_facts
from siren.images import read_image
from siren.network import Siren
from siren.runtime.machine import allow_amx
from siren.runtime.messages import why_it_failed
from siren.samples import (
    Batch,
    Batches,
    DevicePoints,
    Points,
    RandomPoints,
    Selection,
    grid,
    spacing,
)
from siren.tasks.fit import Fit
from siren.training import loop
from siren.training.optimizer import Muon

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
JITTORS_FLAGS = ["-std=c++14", "-fPIC", "-shared", "-Ofast"]
GPU_PRECISIONS = ("fp32", "fp16", "bf16")
INSTRUCTION_SETS = {
    # name: (vector lanes, compiler flags, what /proc/cpuinfo must list)
    "native": (None, ["-march=native", "-fopenmp"], ""),
    "avx2": (8, ["-march=haswell", "-fopenmp"], "avx2"),
    "portable, one thread": (4, ["-march=x86-64"], "sse2"),
    "AMX": (16, ["-march=native", "-fopenmp", "-DSIREN_AMX"], "amx_bf16"),
}
VECTORS = [name for name in INSTRUCTION_SETS if name != "AMX"]


class Kernels:
    """The functions of ``kernels.cc`` on NumPy arrays.

    rounding  how many times as large as in float32 an error may be
    """

    def __init__(self, library, rounding=1):
        self.library, self.rounding = library, rounding

    def call(self, function, layers, omega_0, order, scale, points, *arrays):
        shape = layers[0][0].shape[0], len(layers) - 2, layers[-1][0].shape[0]
        getattr(self.library, function)(
            *(*shape, order, ctypes.c_float(omega_0)),
            *map(as_ctypes, (scale, flat(layers), points)),
            ctypes.c_int64(len(points)),
            *map(as_ctypes, arrays),
        )

    def streams(self, layers, omega_0, order, scale, points):
        channels = layers[-1][0].shape[0]
        output = np.full((len(points), reference.STREAMS[order], channels), np.nan, np.float32)
        self.call("streams", layers, omega_0, order, scale, points, output)
        return output

    def loss(self, layers, omega_0, order, scale, points, target):
        loss, gradient = np.zeros(1, np.float32), np.full_like(flat(layers), np.nan)
        self.call("loss", layers, omega_0, order, scale, points, target, loss, gradient)
        return loss[0], gradient

    def product(self, layers, omega_0, order, scale, points, cotangent):
        gradient = np.full_like(flat(layers), np.nan)
        self.call("product", layers, omega_0, order, scale, points, cotangent, gradient)
        return gradient


def flat(layers):
    """All parameters (n,), as the kernels have them."""
    return np.concatenate([p.ravel() for layer in layers for p in layer])


class JittorKernels:
    """The same functions through Jittor, where ``jt.flags.use_cuda`` says."""

    rounding = 1

    def __init__(self, precision):
        self.engine = Fused(precision)

    def streams(self, layers, omega_0, *arguments):
        return self.streams_var(make_network(layers, omega_0), *arguments).numpy()

    def loss(self, layers, omega_0, *arguments):
        loss, gradient = self.loss_vars(make_network(layers, omega_0), *arguments)
        return loss.item(), gradient.numpy()

    def product(self, layers, omega_0, *arguments):
        return self.product_var(make_network(layers, omega_0), *arguments).numpy()

    # the same as Vars, before anything is compiled or run

    def streams_var(self, network, order, scale, points):
        streams = self.engine.streams(network, jt.array(points), order, scale.tolist())
        return jt.stack(streams, dim=1)

    def loss_vars(self, network, order, scale, points, target):
        batch = Batch(jt.array(points), jt.array(target))
        loss = self.engine.squared_error(network, batch, order, scale.tolist())
        return loss, jt.grad(loss, [network.flat])[0]

    def product_var(self, network, order, scale, points, cotangent):
        streams = self.streams_var(network, order, scale, points)
        return jt.grad((streams * jt.array(cotangent)).sum(), [network.flat])[0]


def make_network(layers, omega_0):
    width, channels = layers[0][0].shape[0], layers[-1][0].shape[0]
    network = Siren(channels, 2, width, len(layers) - 2, omega_0)
    network.load_layers(layers)
    return network


@pytest.fixture(scope="module")
def gpu():
    """What the GPU's cases need is compiled here, with all cores: what Jittor meets at once.

    So all networks are made first: that runs, and compiles, whatever waits.
    """
    if not jt.has_cuda:
        pytest.skip("there is no NVIDIA GPU that works")
    jt.flags.use_cuda = 1
    cases = {}
    for seed in {*range(QUICK), *GPU_SEEDS}:
        _, layers, omega_0, scale, points = random_case(seed)
        cases[seed] = make_network(layers, omega_0), scale, points
    given = [(case, small_network(*case[2:]), black_points(*case[1:])) for case in STARS_IN_HALF]
    stored = [(case, small_network(*case[2:]), black_points(*case[1:])) for case in {*STORED}]
    trials = [trial._Trial(trial_workload(*case)) for case in TRIALS]
    met = [result for each in trials for check in each.checks() for result in check.results]
    for seed in range(QUICK):
        network, scale, points = cases[seed]
        kernels, order = JittorKernels("fp32"), seed % 3
        met += [kernels.streams_var(network, k, scale, points) for k in (0, 1, 2)]
        met += kernels.loss_vars(network, order, scale, points, np.zeros_like(target_of(seed)))
        cotangent = np.ones((len(points), (1, 3, 4)[order], network.out_features), np.float32)
        met.append(kernels.product_var(network, order, scale, points, cotangent))
    for seed, precision in itertools.product(GPU_SEEDS, GPU_PRECISIONS):
        network, scale, points = cases[seed]
        kernels, target = JittorKernels(precision), np.zeros_like(target_of(seed))
        met += kernels.loss_vars(network, seed % 3, scale, points, target)
    for (precision, order, *_), network, points in given:
        batch = reference.gather(points, Selection(0, 5))
        met.append(Fused(precision).squared_error(network, batch, order))
    for case, network, points in stored:
        engine, order = Fused(case[0]), case[1]
        loss = engine.squared_error(network, engine.gather(points, Selection(0, 5)), order)
        if case in VARIED:
            field = jt.zeros((2, 2, 3))
            loss = engine.variation(network, RandomPoints(0, 5, 0), field, 0.1, 1.0, plus=loss)
        gradient = engine.gradient(loss, network)
        met += [loss, gradient]
        if case[0] != "fp32":
            met += engine.muon(*muon_arguments(network, gradient))
    jt.sync(met)
    jt.flags.use_cuda = 0


def small_network(width, channels):
    return Siren(channels, hidden_features=width, hidden_layers=2)


def black_points(order, _, channels):
    values = np.full((6, 2 if order == 1 else 1, channels), -1, np.float32)
    return DevicePoints(Points((2, 3), values))


def trial_workload(precision, order, width, channels):
    return Workload(precision, width, channels=channels, losses=(order,), muon=True)


def muon_arguments(network, gradient):
    """Of a first step."""
    _, count, n = reference.hidden_matrices(network)
    moments = [(count, n, n), *[(network.flat.shape[0] - count * n * n,)] * 2]
    moments = [jt.zeros(shape) for shape in moments]
    numbers = AdamNumbers(0.5, 0.8, 0.9, 0.99, 1e-3), MuonNumbers(1.0, 0.9)
    return network, gradient, *moments, *numbers


@pytest.fixture
def on_gpu(gpu):
    jt.flags.use_cuda = 1
    yield
    jt.flags.use_cuda = 0


@pytest.fixture(params=[*INSTRUCTION_SETS, "GPU"])
def kernels(request):
    if request.param == "GPU":
        request.getfixturevalue("on_gpu")
        return JittorKernels("fp32")
    return request.getfixturevalue("compiled")(request.param)


@pytest.fixture(params=VECTORS)
def cpu_kernels(request, compiled):
    return compiled(request.param)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """``Kernels`` by the name of an instruction set; all are compiled at the same time."""
    folder = tmp_path_factory.mktemp("kernels")
    compilers = {name: compile_kernels(folder / f"{name}.so", name) for name in INSTRUCTION_SETS}

    loader = ThreadPoolExecutor(1)

    @functools.cache
    def load(name):
        lanes, _, feature = INSTRUCTION_SETS[name]
        if compilers[name] is None:
            pytest.skip(f"this processor has no {feature}")
        said, _ = compilers[name].communicate()
        assert (compilers[name].returncode, said) == (0, "")  # and no warning either
        # With g++ 12 or older it switches subnormal numbers off in the thread that loads it.
        library = loader.submit(ctypes.CDLL, str(folder / f"{name}.so")).result()
        if lanes is not None:
            assert library.vector_lanes() == lanes
        if name != "AMX":
            return Kernels(library)
        if not allow_amx():
            pytest.skip("the kernel of the operating system does not allow AMX")
        return Kernels(library, rounding=8)

    yield load
    for compiler in filter(None, compilers.values()):
        compiler.wait()


def compile_kernels(library, name):
    """The compiler at work, or None if this processor could not run what it makes."""
    _, flags, feature = INSTRUCTION_SETS[name]
    if feature not in Path("/proc/cpuinfo").read_text():
        return None
    command = ["g++", "-Wall", *JITTORS_FLAGS, *flags, f"-I{ROOT / 'siren' / 'engine'}"]
    command += [str(FOLDER / "kernels.cc"), "-o", str(library)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def random_case(seed):
    """A network, points and scale of random shape: (rng, layers, omega_0, scale, points)."""
    rng = np.random.default_rng(seed)
    width = int(rng.choice([1, 5, 16, 31, 64, 100, 256, 300]))
    hidden_layers, channels = int(rng.integers(1, 6)), int(rng.integers(1, 6))
    omega_0 = float(rng.choice([1.0, 10.0, 30.0]))
    n = int(rng.choice([1, 3, 11, 97, 500]))
    widths = [2] + [width] * (hidden_layers + 1) + [channels]
    layers = []
    for depth, (fan_in, fan_out) in enumerate(zip(widths, widths[1:])):
        bound = 1 / fan_in if depth == 0 else np.sqrt(6 / fan_in) / omega_0
        weight = rng.uniform(-bound, bound, (fan_out, fan_in)).astype(np.float32)
        bias = rng.uniform(-1, 1, fan_out).astype(np.float32) / np.float32(np.sqrt(fan_in))
        layers.append((weight, bias))
    scale = rng.uniform(0.2, 2, 2).astype(np.float32)
    points = rng.uniform(-1, 1, (n, 2)).astype(np.float32)
    return rng, layers, omega_0, scale, points


QUICK = 12
CASES = [seed if seed < QUICK else pytest.param(seed, marks=pytest.mark.soak) for seed in range(24)]
GPU_SEEDS = 0, 1, 2, 18, 7, 20  # the latter three are 300 wide
STARS = (0, 256, 1), (1, 256, 1), (2, 256, 1), (2, 200, 3), (2, 300, 1), (2, 64, 5)
STARS_IN_HALF = [("fp16", *case) for case in STARS]
# Precision, order, width and channels; few, as each combination is compiled for ten seconds.
TRIALS = [
    ("fp32", 2, 256, 1),
    ("bf16", 2, 256, 1),
    ("fp16", 2, 200, 1),
    ("fp16", 2, 300, 1),
    ("fp16", 2, 64, 5),
]
GATHERED = [("fp16", 0, 256, 1), ("fp16", 1, 256, 1), ("fp16", 2, 64, 5)]
VARIED = [("fp32", 0, 64, 1), ("fp16", 0, 256, 1), ("fp16", 0, 100, 3), ("fp16", 0, 300, 1)]
STORED = TRIALS + GATHERED + VARIED


def target_of(seed):
    """A random target of the size of derivatives, for the order seed % 3."""
    rng, layers, omega_0, _, points = random_case(seed)
    order, channels = seed % 3, layers[-1][0].shape[0]
    shape = len(points), (1, 2, 1)[order], channels
    return (omega_0**order * rng.normal(size=shape)).astype(np.float32)


@pytest.mark.parametrize("seed", CASES)
def test_streams_are_float64s(kernels, seed):
    _, layers, omega_0, scale, points = random_case(seed)
    exact = streams(float64(layers), omega_0, points.astype(np.float64), scale.astype(np.float64))
    # cancellation inside the network makes rounding relative to the size of what is summed
    size = omega_0 * scale.max()
    for order in (0, 1, 2):
        output = kernels.streams(layers, omega_0, order, scale, points)
        for stream in range(output.shape[1]):
            power = (0, 1, 1, 2)[stream]
            tolerance = (
                kernels.rounding
                * (1e-5 if power == 0 else 1e-4)
                * max(np.abs(exact[stream]).max(), 0.1 * size**power * np.abs(exact[0]).max())
            )
            assert np.abs(output[:, stream] - exact[stream]).max() < tolerance


@pytest.mark.parametrize("seed", CASES)
def test_gradients_are_float64s(kernels, seed):
    """Along one random direction in every weight and bias."""
    rng, layers, omega_0, scale, points = random_case(seed)
    exact, points64, scale64 = float64(layers), points.astype(np.float64), scale.astype(np.float64)
    order, target = seed % 3, target_of(seed)

    def loss64(layers):
        return squared_error(layers, omega_0, points64, target, order, scale64)

    loss, gradient = kernels.loss(layers, omega_0, order, scale, points, target)
    assert loss == pytest.approx(loss64(exact), rel=1e-4)

    # the same through the vector-Jacobian product
    output = kernels.streams(layers, omega_0, order, scale, points)
    cotangent = np.zeros_like(output)
    supervised = {0: slice(0, 1), 1: slice(1, 3), 2: slice(3, 4)}[order]
    residual = output[:, supervised] - target
    cotangent[:, supervised] = 2 * residual / residual.size
    product = kernels.product(layers, omega_0, order, scale, points, cotangent)
    assert relative_error(product, gradient) < 1e-5

    parts = make_network(layers, omega_0).split(gradient)
    for ours, error in errors_of_gradient(rng, loss64, exact, float64(parts)):
        assert error < 1e-4 * max(np.linalg.norm(ours), 0.05 * np.abs(gradient).max())


def test_sine_and_cosine_keep_their_accuracy(cpu_kernels):
    x = np.concatenate(
        [
            np.linspace(-1e4, 1e4, 2_000_003),
            np.linspace(-40, 40, 1_000_003),
            np.arange(-6000, 6000) * (np.pi / 2),  # where one of the two vanishes
            [0.0, -0.0, 1e-30, -1e-30],
        ]
    ).astype(np.float32)
    x = x[np.abs(x) <= 1e4]
    sine, cosine = np.empty_like(x), np.empty_like(x)
    cpu_kernels.library.sincos_array(*map(as_ctypes, (x, sine, cosine)), ctypes.c_int64(x.size))
    allowed = 2e-7 * (1 + np.abs(x) / 100)
    assert (np.abs(sine - np.sin(x.astype(np.float64))) <= allowed).all()
    assert (np.abs(cosine - np.cos(x.astype(np.float64))) <= allowed).all()


@pytest.mark.parametrize("n", [1, 7, 64, 100, 256, 530])
@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_orthogonalisation_is_float64s(compiled, name, n):
    kernels = compiled(name)
    matrices = np.random.default_rng(n).normal(size=(3, n, n)).astype(np.float32)
    polynomials = np.float32(reference.POLYNOMIALS)
    ours = np.full_like(matrices, np.nan)
    given, coefficients, results = map(as_ctypes, (matrices, polynomials, ours))
    kernels.library.orthogonalize(given, 3, n, len(polynomials), coefficients, results)
    expected = trial.orthogonalized(matrices.astype(np.float64))
    assert relative_error(ours, expected) < 1e-5 * kernels.rounding


@pytest.mark.parametrize("seed", GPU_SEEDS)
@pytest.mark.parametrize(
    ("precision", "tolerance"), [("fp32", 1e-4), ("fp16", 5e-3), ("bf16", 5e-2)]
)
def test_precisions_of_a_gpu(on_gpu, precision, tolerance, seed):
    """More points than fit into one chunk, of which the last is not full; also twice the same."""
    rng, order = np.random.default_rng(seed), seed % 3
    _, layers, omega_0, _, _ = random_case(seed)
    n, scale = 140_001, np.float32([1 / 64, 1 / 100])
    points = rng.uniform(-1, 1, (n, 2)).astype(np.float32)
    channels = layers[-1][0].shape[0]
    target = rng.normal(size=(n, 2 if order == 1 else 1, channels)).astype(np.float32)
    kernels = JittorKernels(precision)
    loss, gradient = kernels.loss(layers, omega_0, order, scale, points, target)
    again, same = kernels.loss(layers, omega_0, order, scale, points, target)
    assert loss == again
    assert (gradient == same).all()

    jt.flags.use_cuda = 0  # the CPU's kernels
    exact, expected = JittorKernels("fp32").loss(layers, omega_0, order, scale, points, target)
    assert loss == pytest.approx(exact, rel=tolerance)
    assert relative_error(gradient, expected) < tolerance


@pytest.mark.parametrize(("precision", "tolerance"), [("fp16", 5e-3), ("bf16", 5e-2)])
def test_muon_on_a_gpu(on_gpu, precision, tolerance):
    """Against the CPU's; of three matrices one is zero and one is very small."""
    rng = np.random.default_rng(0)
    for n in (1, 5, 37, 64, 100, 256, 257, 300, 600, 1024):
        network = Siren(hidden_features=n, hidden_layers=3)
        start, _, _ = reference.hidden_matrices(network)
        gradient = rng.normal(size=network.flat.shape).astype(np.float32)
        matrices = [slice(start + k * (n * n + n), start + k * (n * n + n) + n * n) for k in (0, 1)]
        gradient[matrices[0]], gradient[matrices[1]] = 0, 1e-20 * gradient[matrices[1]]
        results = []
        for use_cuda in (1, 0):
            jt.flags.use_cuda = use_cuda
            arguments = muon_arguments(network, jt.array(gradient))
            results.append([var.numpy() for var in Fused(precision).muon(*arguments)])
        ours, expected = results
        before = network.flat.numpy()
        assert (ours[0][matrices[0]] == before[matrices[0]]).all()
        assert relative_error(ours[0] - before, expected[0] - before) < tolerance
        for one, other in zip(ours[1:], expected[1:]):
            assert np.abs(one - other).max() <= 1e-6 * np.abs(other).max()


WIDE = [
    (272, 3),
    (300, 1),
    (449, 2),
    (512, 12),  # more tiles than fit at the same time
    (768, 3),
    (1000, 2),
    (1024, 7),
    (1100, 1),
]


@pytest.mark.parametrize(
    ("n", "layers", "precision", "tolerance"),
    [
        *((*size, "fp16", 3e-3) for size in WIDE),
        (300, 1, "bf16", 3e-2),
        (1000, 2, "bf16", 3e-2),
    ],
)
def test_muon_of_wide_networks_on_a_gpu(on_gpu, n, layers, precision, tolerance):
    """Against float64; and twice the same."""
    rng = np.random.default_rng(n)
    network = Siren(hidden_features=n, hidden_layers=layers)
    start, _, _ = reference.hidden_matrices(network)
    gradient = rng.normal(size=network.flat.shape).astype(np.float32)
    network, gradient, average, mean, square, *numbers = muon_arguments(network, jt.array(gradient))
    average = rng.normal(size=average.shape).astype(np.float32)
    arguments = network, gradient, jt.array(average), mean, square, *numbers
    flat, new_average, *_ = (var.numpy() for var in Fused(precision).muon(*arguments))
    assert (Fused(precision).muon(*arguments)[0].numpy() == flat).all()
    before, gradient = network.flat.numpy(), gradient.numpy()
    for k in range(layers):
        place = slice(start + k * (n * n + n), start + k * (n * n + n) + n * n)
        slopes = gradient[place].reshape(n, n).astype(np.float64)
        expected = numbers[1].momentum * average[k] + slopes
        assert relative_error(new_average[k], expected) < 1e-6
        if k not in (0, layers - 1):
            continue
        direction = trial.orthogonalized((numbers[1].momentum * expected + slopes)[None])[0].ravel()
        assert relative_error(before[place] - flat[place], direction) < tolerance


def test_points_gathered_on_a_gpu(on_gpu):
    rng, shape = np.random.default_rng(0), (30, 41)
    levels = rng.integers(0, 65536, (shape[0] * shape[1], 1, 3)).astype(np.float32)
    eight = np.float32(np.rint(levels / 257)) / np.float32(127.5) - 1
    sixteen = (levels * (255 / 65535)).astype(np.float32) / np.float32(127.5) - 1
    listed = np.sort(rng.permutation(len(levels))[:500])
    for values in (eight, sixteen, rng.normal(size=(len(levels), 2, 1)).astype(np.float32)):
        for points in (Points(shape, values), Points(shape, values[listed], listed)):
            count = len(points)
            share = range(count // 3, count)
            for selection in (
                Selection(share.start, len(share)),
                Batches(100, 1).select(count, 5).within(share),
            ):
                stored = DevicePoints(points, share)
                ours, indices = Fused().gather(stored, selection), selection.indices()
                assert (ours.coordinates.numpy() == points.coordinates[indices]).all()
                assert (ours.target.numpy() == points.target[indices]).all()


# ---- the Jittor binding -----------------------------------------------------------------------


def test_variation_is_that_of_float64():
    """And its gradient, along a random direction."""
    rng, scale, smallest = np.random.default_rng(1), (0.05, 0.04), 0.03
    network = Siren(out_features=2, hidden_features=24, hidden_layers=1, omega_0=8.0)
    chosen = RandomPoints(3, 50, 7)
    points = chosen.coordinates()
    a, b, c = rng.normal(size=(3, 6, 9))
    field = np.float32(np.stack([a * a + c * c, a * b, b * b], axis=2))
    nearest = np.rint((points.astype(np.float64) + 1) / 2 * [5, 8]).astype(int)
    tensors = field[nearest[:, 0], nearest[:, 1]]

    def exact(flat):
        layers = network.split(flat)
        _, rows, columns = streams(layers, 8.0, points.astype(np.float64), np.array(scale))[:3]
        matrices = tensors[:, [[0, 1], [1, 2]]].astype(np.float64)
        slopes = np.stack([rows, columns], axis=1)
        energy = np.einsum("pic,pij,pjc->p", slopes, matrices, slopes) / 2
        return 0.7 * np.sqrt(energy + smallest**2).mean()

    flat = network.flat.numpy().astype(np.float64)
    direction = rng.normal(size=flat.shape)
    slope = (exact(flat + 1e-6 * direction) - exact(flat - 1e-6 * direction)) / 2e-6
    for module in (reference, Fused()):
        ours = module.variation(network, chosen, jt.array(field), smallest, 0.7, scale)
        assert ours.item() == pytest.approx(exact(flat), rel=1e-4)
        for gradient in (jt.grad(2 * ours, [network.flat])[0] / 2, module.gradient(ours, network)):
            assert gradient.numpy() @ direction == pytest.approx(slope, rel=1e-3)
        more = module.variation(network, chosen, jt.array(field), smallest, 0.7, scale, plus=ours)
        assert more.item() == pytest.approx(2 * exact(flat), rel=1e-4)
        assert module.gradient(more, network).numpy() @ direction == pytest.approx(2 * slope, 1e-3)
        with pytest.raises(ValueError, match="field must be a float32 Var"):
            module.variation(network, chosen, jt.array(field[0]), smallest, 1, scale)


@pytest.mark.parametrize(("precision", "order", "width", "channels"), VARIED)
def test_variation_on_a_gpu(on_gpu, precision, order, width, channels):
    """Against the CPU's, at more points than fit into one chunk; added to the loss of a batch."""
    rng, engine = np.random.default_rng(0), Fused(precision)
    network, tolerance = small_network(width, channels), 1e-4 if precision == "fp32" else 5e-3
    a, b, c = rng.normal(size=(3, 20, 30))
    field = np.float32(np.stack([a * a + c * c, a * b, b * b], axis=2))
    values = np.float32(rng.integers(0, 256, (600, 1, channels))) / np.float32(127.5) - 1
    points, scale = RandomPoints(5, 100_001, 7), (0.1, 0.07)
    for step in range(2):
        selection = Batches(100, 1).select(600, step)
        results = []
        for use_cuda in (1, 0):
            jt.flags.use_cuda = use_cuda
            batch = engine.gather(DevicePoints(Points((20, 30), values)), selection)
            loss = engine.squared_error(network, batch, order)
            loss = engine.variation(network, points, jt.array(field), 0.01, 0.3, scale, loss)
            results.append((loss.item(), engine.gradient(loss, network).numpy()))
        (loss, gradient), (exact, expected) = results
        assert loss == pytest.approx(exact, rel=tolerance)
        assert relative_error(gradient, expected) < tolerance


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize(("precision", "order", "width", "channels"), GATHERED)
def test_losses_of_stored_points_on_a_gpu(on_gpu, precision, order, width, channels, listed):
    """They are those of the same points as arrays, in chunks too, bit for bit."""
    rng, engine, shape = np.random.default_rng(0), Fused(precision), (500, 600)
    network = small_network(width, channels)
    pixels = np.sort(rng.permutation(300_000)[:280_000]) if listed else np.arange(300_000)
    supervised = 2 if order == 1 else 1
    values = np.float32(rng.integers(0, 256, (len(pixels), supervised, channels)))
    points = Points(shape, values / np.float32(127.5) - 1, pixels if listed else None)
    for selection in (Selection(0, len(pixels)), Batches(70_000, 3).select(len(pixels), 2)):
        chosen = selection.indices()
        given = Batch(jt.array(points.coordinates[chosen]), jt.array(points.target[chosen]), 0.3)
        batches = engine.gather(DevicePoints(points), selection, 0.3), given
        losses = [engine.squared_error(network, batch, order, (0.01, 0.02)) for batch in batches]
        assert losses[0].item() == losses[1].item()
        gradients = [engine.gradient(loss, network).numpy() for loss in losses]
        assert (gradients[0] == gradients[1]).all()
    wrong = DevicePoints(Points(shape, values[:, :, :1].repeat(channels + 1, axis=2)))
    with pytest.raises(ValueError, match="targets must be"):
        engine.squared_error(network, engine.gather(wrong, Selection(0, 7)), order)


# Jittor compiles some twenty operators for each of them; the last has the streams of the others.
@pytest.mark.parametrize(
    "order",
    [pytest.param(0, marks=pytest.mark.soak), pytest.param(1, marks=pytest.mark.soak), 2],
)
def test_both_engines_are_interchangeable_in_any_loss(order):
    rng = np.random.default_rng(order)
    network = Siren(out_features=3, hidden_features=40, hidden_layers=2)
    shape = (9, 12)
    x = jt.array(grid(*shape)).stop_grad()
    kinds = {0: 1, 1: 2, 2: 1}[order]
    target = jt.array(rng.normal(size=(108, kinds, 3)).astype(np.float32))

    results = []
    for module in (reference, Fused()):
        streams = module.streams(network, x, order, spacing(*shape))
        assert len(streams) == reference.STREAMS[order]
        losses = [
            module.squared_error(network, Batch(x, target, 0.3), order, spacing(*shape)),
            # neither a squared error nor the same for all points or streams
            sum((k + 1) * (s * s * s).mean() for k, s in enumerate(streams)) * 3,
        ]
        values = [stream.numpy() for stream in streams]
        for loss in losses:
            (gradient,) = jt.grad(2 * loss, [network.flat])
            values += [loss.numpy(), *(p for pair in network.split(gradient.numpy()) for p in pair)]
        results.append(values)
    largest = max(np.abs(value).max() for value in results[0])
    for expected, ours in zip(*results):
        assert ours.shape == expected.shape
        error = np.abs(ours - expected).max()
        assert error < 1e-4 * np.abs(expected).max() + 1e-7 * largest


def test_training_is_the_same_with_both_engines_and_repeats_bit_for_bit(data):
    def run(module):
        network = Siren(hidden_features=48)
        task = Fit(read_image(data / "camera.png", 1, (32, 40)))
        optimizer = Muon(network, module, lr=2e-3, adam_lr=1e-3)
        result = loop.train(network, task, module, 20, optimizer)
        return network.flat.numpy(), result.best.loss

    (first, first_loss), (again, again_loss) = run(Fused()), run(Fused())
    assert (first == again).all()
    assert first_loss == again_loss
    _, loss = run(reference)
    assert first_loss == pytest.approx(loss, rel=1e-2)


EVERYTHING = Workload(losses=(0, 1, 2), streams=(1,), variation=True, pictures=(0, 2), muon=True)


@pytest.mark.parametrize(
    "workload",
    [
        EVERYTHING,
        dataclasses.replace(EVERYTHING, width=1, layers=1, channels=5, omega_0=1e4),
        dataclasses.replace(EVERYTHING, width=1100, layers=1, channels=3, omega_0=1e-2),
        dataclasses.replace(EVERYTHING, width=40, layers=33),
    ],
)
def test_an_engine_that_works_is_chosen_without_a_word(workload, capsys):
    assert get_engine("fused", "fp32", workload) == Fused("fp32")
    assert get_engine("reference", "fp32", workload) is reference
    assert capsys.readouterr() == ("", "")


@pytest.mark.skipif(not allow_amx(), reason="there is no AMX")
@pytest.mark.parametrize("width", [40, 256])
def test_it_is_chosen_with_amx_too(width, capsys):
    workload = dataclasses.replace(EVERYTHING, width=width)
    assert get_engine("fused", "bf16x2", workload) == Fused("bf16x2")
    assert capsys.readouterr() == ("", "")


def test_products_of_bf16_that_fail_are_replaced_by_those_of_float32(monkeypatch, capsys):
    monkeypatch.setattr(fused, "allow_amx", lambda: True)
    tried = []

    def attempt(workload):
        tried.append(workload.precision)
        return "g++ is too old" if workload.precision == "bf16x2" else None

    assert get_engine("fused", "bf16x2", EVERYTHING, attempt) == Fused("fp32")
    assert tried == ["bf16x2", "fp32"]
    (line,) = capsys.readouterr().err.splitlines()
    assert "(g++ is too old); using those of float32" in line


def test_products_of_bf16_need_amx(monkeypatch):
    monkeypatch.setattr(fused, "allow_amx", lambda: False)
    with pytest.raises(ValueError, match="needs a processor with AMX"):
        Fused("bf16x2")


@pytest.mark.parametrize(("precision", "order", "width", "channels"), TRIALS)
def test_it_is_chosen_on_a_gpu_too(on_gpu, precision, order, width, channels, capsys):
    workload = trial_workload(precision, order, width, channels)
    assert get_engine("fused", precision, workload) == Fused(precision)
    assert capsys.readouterr() == ("", "")


def broken(method, change):
    """``Fused`` with the results of a method changed."""
    original = getattr(Fused, method)

    def changed(*arguments, **named):
        result = original(*arguments, **named)
        several = isinstance(result, (list, tuple))
        return [change(x) for x in result] if several else change(result)

    return changed


def failing(error):
    def fails(*_, **__):
        raise error

    return fails


NO_OPENMP = "log\n\x1b[31mfatal error: omp.h: No such file\x1b[m\nmore log"


@pytest.mark.parametrize(
    ("method", "instead", "reason"),
    [
        ("streams", failing(RuntimeError(NO_OPENMP)), "(fatal error: omp.h: No such file)"),
        ("squared_error", failing(RuntimeError(NO_OPENMP)), "omp.h"),
        ("muon", failing(AssertionError()), "(AssertionError)"),
        ("streams", failing(OSError("no such library")), "no such library"),
        ("streams", broken("streams", lambda x: 1.01 * x), "streams of order 0 are wrong"),
        ("streams", broken("streams", lambda x: x / 0), "streams of order 0 are wrong"),
        (
            "streams",
            broken("streams", lambda x: x.stop_grad()),
            "gradient of its streams of order 1 is wrong",
        ),
        ("squared_error", broken("squared_error", lambda x: 1.01 * x), "error of order 0"),
        (
            "squared_error",
            broken("squared_error", lambda x: x.stop_grad() + 1.01 * (x - x.stop_grad())),
            "error of order 0 or the gradient of that is wrong",
        ),
        ("variation", broken("variation", lambda x: 1.01 * x), "its variation or the gradient"),
        ("adam", broken("adam", lambda x: 1.01 * x), "its step of Adam is wrong"),
        ("muon", broken("muon", lambda x: 1.01 * x), "its step of Muon is wrong"),
    ],
)
def test_an_engine_that_fails_is_replaced_with_one_sentence(
    method, instead, reason, monkeypatch, capsys
):
    monkeypatch.setattr(Fused, method, instead)
    assert get_engine("fused", "fp32", EVERYTHING) is reference
    out, error = capsys.readouterr()
    (line,) = error.splitlines()
    assert reason in line
    assert "using the reference engine" in line
    assert out == ""


@pytest.mark.parametrize("depth", range(5))
def test_a_wrong_gradient_of_one_layer_is_found(depth, monkeypatch):
    """Also of the smallest, the last one: 4 of 49 parameters."""
    layers = trial._Trial(Workload(width=3, losses=(2,))).layers
    sizes = [weight.size + bias.size for weight, bias in layers]
    wrong = np.ones(sum(sizes), np.float32)
    wrong[sum(sizes[:depth]) : sum(sizes[: depth + 1])] = 1.01
    right = trial._Trial.right_gradient
    workload = Workload(width=3, losses=(0, 1, 2), muon=True)
    assert trial.why_it_fails(workload) is None
    monkeypatch.setattr(
        trial._Trial, "right_gradient", lambda self, ours, loss: right(self, ours * wrong, loss)
    )
    assert "the gradient of that is wrong" in trial.why_it_fails(workload)


def test_an_operation_has_the_source_of_its_device_alone(monkeypatch):
    """With that of a GPU, Jittor would compile a CPU's kernel for each order, at the same time."""
    made, code = [], jt.code
    monkeypatch.setattr(
        jt, "code", lambda *args, **named: made.append(named) or code(*args, **named)
    )
    checks = list(trial._Trial(EVERYTHING).checks())
    assert len(made) > 5
    assert {name for named in made for name in named} == {"data", "cpu_header", "cpu_src"}
    # Everything is asked for first: what runs at the same time is compiled at the same time.
    assert len(checks) == 9
    assert {result.location() for check in checks for result in check.results} == {"none"}


@pytest.mark.parametrize("compact", [True, False])
def test_the_targets_of_a_trial_are_stored_as_a_runs(monkeypatch, compact):
    """On a GPU other kernels read others."""
    made = []
    monkeypatch.setattr(trial, "Points", lambda *a: made.append(Points(*a)) or made[-1])
    assert get_engine("fused", "fp32", Workload(compact=compact)) == Fused("fp32")
    assert [points.values.dtype for points in made] == [np.uint8 if compact else np.float32]


def test_workloads_are_tried_together(monkeypatch):
    """All kernels are asked for at once; each workload is checked."""
    synced = []
    sync = jt.sync
    monkeypatch.setattr(jt, "sync", lambda results: synced.append(len(results)) or sync(results))
    orders = [Workload(losses=(order,), pictures=()) for order in range(3)]
    checks = [list(trial._Trial(workload).checks()) for workload in orders]
    synced.clear()
    assert trial.why_it_fails(*orders) is None
    assert synced[-1] == sum(len(check.results) for each in checks for check in each)
    gradient = trial._Trial.right_gradient
    calls = []
    monkeypatch.setattr(
        trial._Trial,
        "right_gradient",
        lambda *args, **named: len(calls.append(0) or calls) < 3 and gradient(*args, **named),
    )
    assert "squared error of order 2" in trial.why_it_fails(*orders)


def test_what_is_not_used_is_not_tried(monkeypatch):
    for method in ("squared_error", "adam", "muon"):
        monkeypatch.setattr(Fused, method, failing(RuntimeError("unused")))
    assert get_engine("fused", "fp32", Workload(losses=())) == Fused("fp32")
    assert get_engine("fused") is reference


def test_a_network_too_large_for_the_kernels_has_the_reference_engine(capsys):
    assert get_engine("fused", "fp32", Workload(width=200_000)) is reference
    assert "2^31 parameters" in capsys.readouterr().err


def test_a_network_without_hidden_layers_has_the_reference_engine_without_a_word(capsys):
    workload = Workload(layers=0)
    assert not workload.has_kernels
    assert get_engine("fused", "fp32", workload) is reference
    assert capsys.readouterr() == ("", "")
    with pytest.raises(ValueError, match="at least one hidden layer"):
        Fused().streams(Siren(hidden_features=8, hidden_layers=0), zeros(5, 2), 0)


def test_the_trial_in_a_process_of_its_own():
    def run(*workloads):
        texts = [workload.to_json("cpu") for workload in workloads]
        command = [sys.executable, "-m", "siren.engine.trial", *texts]
        child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        return child.returncode, why_it_failed(child.returncode, child.stdout + child.stderr)

    assert run(Workload(width=8, losses=()))[0] == 0
    assert run(Workload(layers=0))[0] == 0
    status, reason = run(Workload(width=8, losses=()), Workload(width=200_000))
    assert status == 1 and "2^31 parameters" in reason


@pytest.mark.parametrize(
    ("returncode", "output", "expected"),
    [
        (1, "chatter\nomp.h: No such file\n", "omp.h: No such file"),
        (3, "\n", "it ended with status 3"),
        (-11, "", "it was ended by SIGSEGV"),
        (
            -9,
            "chatter",
            "it was killed, perhaps for lack of memory; close other programs and try again",
        ),
    ],
)
def test_how_the_child_ended(returncode, output, expected):
    assert why_it_failed(returncode, output) == expected


def test_a_trial_is_of_one_workload_and_one_machine(monkeypatch):
    workload = Workload(width=64)
    assert Workload.from_json(workload.to_json("cuda")) == (workload, "cuda")
    facts = trial_facts(workload, "cpu")
    assert trial_facts(Workload(width=64), "cpu") == facts
    assert trial_facts(workload, "cuda") != facts
    assert trial_facts(dataclasses.replace(workload, muon=True), "cpu") != facts
    monkeypatch.setenv("cc_path", "/bin/true")
    assert trial_facts(workload, "cpu") != facts


def test_a_trial_is_of_the_kernels_sources_wherever_they_lie(monkeypatch, tmp_path):
    header = tmp_path / "engine" / "cuda" / "sm90" / "tile.h"
    header.parent.mkdir(parents=True)
    header.write_text("one")
    monkeypatch.setattr(workload_module, "__file__", str(tmp_path / "engine" / "workload.py"))
    facts = trial_facts(Workload(), "cpu")
    workload_module._sources.cache_clear()
    header.write_text("two")
    assert trial_facts(Workload(), "cpu") != facts
    workload_module._sources.cache_clear()
    header.write_text("one")
    assert trial_facts(Workload(), "cpu") == facts
    (tmp_path / "engine").rename(tmp_path / "moved")  # Jittor compiles kernels anew there
    monkeypatch.setattr(workload_module, "__file__", str(tmp_path / "moved" / "workload.py"))
    assert trial_facts(Workload(), "cpu") != facts


# ---- what is refused --------------------------------------------------------------------------


def zeros(*shape, dtype="float32"):
    return jt.array(np.zeros(shape, dtype))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"coordinates": zeros(5, 3)}, "coordinates must be a float32 Var (n, 2)"),
        ({"coordinates": zeros(10)}, "coordinates must be"),
        ({"coordinates": zeros(0, 2)}, "not float32 (0, 2)"),
        ({"coordinates": zeros(5, 2, dtype="int32")}, "not int32 (5, 2)"),
        ({"coordinates": np.zeros((5, 2), np.float32)}, "not ndarray"),
        ({"order": 3}, "order is 3"),
        ({"order": -1}, "order is -1"),
        ({"target": zeros(5, 3)}, "target must be a float32 Var (5, 1, 3)"),
        ({"target": zeros(4, 1, 3)}, "target must be"),
        ({"target": zeros(5, 1, 1)}, "target must be"),
        ({"target": zeros(5, 1, 3), "order": 1}, "target must be a float32 Var (5, 2, 3)"),
        ({"target": zeros(5, 1, 3, dtype="int32")}, "target must be"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(engine, changes, words):
    fitting = {"coordinates": zeros(5, 2), "target": zeros(5, 1, 3), "order": 0, "scale": (1, 1)}
    coordinates, target, *how = {**fitting, **changes}.values()
    network = Siren(3, hidden_features=4, hidden_layers=1)
    with pytest.raises(ValueError, match=re.escape(words)):
        engine.squared_error(network, Batch(coordinates, target), *how)
    if "target" not in changes:
        with pytest.raises(ValueError, match=re.escape(words)):
            engine.streams(network, coordinates, *how)


@pytest.mark.parametrize("shape", [(4, 4), (1, 4, 5), (0, 4, 4)])
def test_only_square_matrices_are_orthogonalised(engine, shape):
    with pytest.raises(ValueError, match="matrices must be"):
        engine.orthogonalize(zeros(*shape))


def test_networks_of_other_inputs():
    network = Siren(1, in_features=3, hidden_features=8, hidden_layers=1)
    points = np.random.default_rng(0).uniform(-1, 1, (5, 3)).astype(np.float32)
    (values,) = reference.streams(network, jt.array(points), 0)
    exact = value(layers_of(network), network.omega_0, points.astype(np.float64))
    assert relative_error(values.numpy(), exact) < 1e-5
    with pytest.raises(ValueError, match="2 inputs, and this one has 3"):
        reference.streams(network, jt.array(points), 1)
    for points in (zeros(5, 3), zeros(5, 2)):
        with pytest.raises(ValueError, match="not those of 3 inputs"):
            Fused().streams(network, points, 0)
        with pytest.raises(ValueError, match="not those of 3 inputs"):
            Fused().squared_error(network, Batch(points, zeros(5, 1, 1)), 0)


def test_parameters_that_are_not_the_networks_are_refused():
    network = Siren(hidden_features=8)
    network.flat = network.flat[:-1]
    with pytest.raises(ValueError, match="parameters"):
        Fused().streams(network, zeros(5, 2), 0)


@pytest.mark.parametrize("arguments", [("cutlass",), ("fused", "fp64")])
def test_names_of_engines_and_precisions(arguments):
    with pytest.raises(ValueError, match="there is no"):
        get_engine(*arguments)


# ---- a picture of one star --------------------------------------------------------------------


@pytest.mark.parametrize("star", [1e3, 1e8])
@pytest.mark.parametrize(("order", "width", "channels"), STARS)
def test_one_star_in_a_flat_picture_does_not_overflow_half(on_gpu, star, order, width, channels):
    """It is among the last points, far beyond all that the scale of cotangents is agreed by."""
    rng = np.random.default_rng(order)
    side = 256
    network = small_network(width, channels)
    target = np.zeros((side * side, 2 if order == 1 else 1, channels), np.float32)
    target[rng.integers(side * side - 200, side * side)] = star
    batch = Batch(jt.array(grid(side, side)), jt.array(target))

    def gradient(precision):
        loss = Fused(precision).squared_error(network, batch, order, spacing(side, side))
        return jt.grad(loss, [network.flat])[0].numpy()

    half = gradient("fp16")
    jt.flags.use_cuda = 0  # the CPU's kernels
    assert relative_error(half, gradient("fp32")) < 5e-3
