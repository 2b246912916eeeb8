"""The fused engine: its kernels compiled for several instruction sets, and its Jittor binding."""

from __future__ import annotations

import ctypes
import functools
import subprocess
from pathlib import Path

import jittor as jt
import numpy as np
import pytest
from numpy_siren import (
    layers_of,
    parameter_derivative,
    relative_error,
    squared_error,
    streams,
)

from siren import engine, training
from siren.coordinates import grid, spacing
from siren.engine import reference
from siren.engine.fused import Fused
from siren.images import read_image
from siren.network import Siren
from siren.optimizer import Muon
from siren.tasks.fit import Fit

FOLDER = Path(__file__).resolve().parent
JITTORS_FLAGS = ["-std=c++14", "-fPIC", "-shared", "-Ofast"]
INSTRUCTION_SETS = {
    # name: (vector lanes, compiler flags, what /proc/cpuinfo must list)
    "native": (None, ["-march=native", "-fopenmp"], ""),
    "avx2": (8, ["-march=haswell", "-fopenmp"], "avx2"),
    "portable, one thread": (4, ["-march=x86-64"], "sse2"),
}


class Kernels:
    """The functions of ``kernels.cc`` on NumPy arrays."""

    def __init__(self, library):
        self.library = library

    def call(self, function, layers, omega_0, order, scale, points, *arrays):
        width, hidden_layers = layers[0][0].shape[0], len(layers) - 2
        self.channels = layers[-1][0].shape[0]
        parameters = np.concatenate([p.ravel() for layer in layers for p in layer])
        pointers = [
            None if array is None else array.ctypes.data_as(ctypes.c_void_p)
            for array in (np.float32(scale), np.float32(parameters), points, *arrays)
        ]
        getattr(self.library, function)(
            width,
            hidden_layers,
            self.channels,
            order,
            ctypes.c_float(omega_0),
            *pointers[:3],
            ctypes.c_int64(len(points)),
            *pointers[3:],
        )
        return parameters.size

    def streams(self, layers, omega_0, order, scale, points):
        channels = layers[-1][0].shape[0]
        output = np.full((len(points), reference.STREAMS[order], channels), np.nan, np.float32)
        self.call("streams", layers, omega_0, order, scale, points, output)
        return output

    def loss(self, layers, omega_0, order, scale, points, target, weight):
        loss = np.zeros(1, np.float32)
        gradient = np.full(sum(p.size for layer in layers for p in layer), np.nan, np.float32)
        arrays = (target, weight, loss, gradient)
        self.call("loss", layers, omega_0, order, scale, points, *arrays)
        return loss[0], gradient

    def product(self, layers, omega_0, order, scale, points, cotangent):
        gradient = np.full(sum(p.size for layer in layers for p in layer), np.nan, np.float32)
        self.call("product", layers, omega_0, order, scale, points, cotangent, gradient)
        return gradient


class JittorKernels:
    """The same functions through Jittor, where ``jt.flags.use_cuda`` says."""

    def __init__(self, precision):
        self.engine = Fused(precision)

    def network(self, layers, omega_0):
        width, channels = layers[0][0].shape[0], layers[-1][0].shape[0]
        network = Siren(channels, 2, width, len(layers) - 2, omega_0)
        network.load(layers)
        return network

    def streams(self, layers, omega_0, order, scale, points):
        network = self.network(layers, omega_0)
        streams = self.engine.streams(network, jt.array(points), order, scale.tolist())
        return np.stack([stream.numpy() for stream in streams], axis=1)

    def loss(self, layers, omega_0, order, scale, points, target, weight):
        network = self.network(layers, omega_0)
        weight = None if weight is None else jt.array(weight)
        points, target = jt.array(points), jt.array(target)
        loss = self.engine.squared_error(network, points, target, order, scale.tolist(), weight)
        return loss.item(), jt.grad(loss, [network.flat])[0].numpy()

    def product(self, layers, omega_0, order, scale, points, cotangent):
        network = self.network(layers, omega_0)
        streams = self.engine.streams(network, jt.array(points), order, scale.tolist())
        loss = (jt.stack(streams, dim=1) * jt.array(cotangent)).sum()
        return jt.grad(loss, [network.flat])[0].numpy()


@pytest.fixture
def on_gpu():
    if not jt.has_cuda:
        pytest.skip("there is no NVIDIA GPU that works")
    jt.flags.use_cuda = 1
    yield
    jt.flags.use_cuda = 0


@pytest.fixture(params=[*INSTRUCTION_SETS, "GPU"])
def kernels(request):
    if request.param == "GPU":
        request.getfixturevalue("on_gpu")
        return JittorKernels("fp32")
    return request.getfixturevalue("compiled")(request.param)


@pytest.fixture(params=INSTRUCTION_SETS)
def cpu_kernels(request, compiled):
    return compiled(request.param)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    return functools.cache(functools.partial(compile_kernels, tmp_path_factory))


def compile_kernels(tmp_path_factory, name):
    lanes, flags, feature = INSTRUCTION_SETS[name]
    if feature not in Path("/proc/cpuinfo").read_text():
        pytest.skip(f"this processor has no {feature}")
    library = tmp_path_factory.mktemp("kernels") / "kernels.so"
    command = ["g++", *JITTORS_FLAGS, *flags, f"-I{FOLDER.parent / 'siren' / 'engine'}"]
    subprocess.run([*command, str(FOLDER / "kernels.cc"), "-o", str(library)], check=True)
    library = ctypes.CDLL(str(library))
    if lanes is not None:
        assert library.vector_lanes() == lanes
    return Kernels(library)


def random_case(seed):
    """A network, points and scale of random shape: (rng, layers, omega_0, scale, points)."""
    rng = np.random.default_rng(seed)
    width = int(rng.choice([1, 5, 16, 31, 64, 100, 256, 300]))
    hidden_layers, channels = int(rng.integers(0, 6)), int(rng.integers(1, 6))
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


def float64(layers):
    return [(weight.astype(np.float64), bias.astype(np.float64)) for weight, bias in layers]


CASES = range(24)


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
            tolerance = (1e-5 if power == 0 else 1e-4) * max(
                np.abs(exact[stream]).max(), 0.1 * size**power * np.abs(exact[0]).max()
            )
            assert np.abs(output[:, stream] - exact[stream]).max() < tolerance


@pytest.mark.parametrize("seed", CASES)
def test_gradients_are_float64s(kernels, seed):
    """Along one random direction in every weight and bias."""
    rng, layers, omega_0, scale, points = random_case(seed)
    exact, points64, scale64 = float64(layers), points.astype(np.float64), scale.astype(np.float64)
    channels = layers[-1][0].shape[0]
    order = seed % 3
    weight = rng.uniform(0, 2, len(points)).astype(np.float32) if seed % 2 else None
    kinds = {0: 1, 1: 2, 2: 1}[order]
    spread = (1, omega_0, omega_0**2)[order]
    target = (spread * rng.normal(size=(len(points), kinds, channels))).astype(np.float32)

    def loss64(layers):
        return squared_error(layers, omega_0, points64, target, order, scale64, weight)

    loss, gradient = kernels.loss(layers, omega_0, order, scale, points, target, weight)
    assert loss == pytest.approx(loss64(exact), rel=1e-4)

    # the same through the vector-Jacobian product
    output = kernels.streams(layers, omega_0, order, scale, points)
    cotangent = np.zeros_like(output)
    supervised = {0: slice(0, 1), 1: slice(1, 3), 2: slice(3, 4)}[order]
    residual = output[:, supervised] - target
    factor = 1.0 if weight is None else weight[:, None, None]
    cotangent[:, supervised] = 2 * factor * residual / residual.size
    product = kernels.product(layers, omega_0, order, scale, points, cotangent)
    assert relative_error(product, gradient) < 1e-5

    offset = 0
    largest = np.abs(gradient).max()
    for depth in range(len(layers)):
        for kind in (0, 1):
            shape = layers[depth][kind].shape
            size = int(np.prod(shape))
            ours = gradient[offset : offset + size].astype(np.float64).reshape(shape)
            offset += size
            direction = rng.normal(size=shape)
            direction /= np.linalg.norm(direction)
            expected = parameter_derivative(loss64, exact, depth, kind, direction)
            tolerance = 1e-4 * max(np.linalg.norm(ours), 0.05 * largest)
            assert abs((ours * direction).sum() - expected) < tolerance
    assert offset == gradient.size


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
    pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in (x, sine, cosine)]
    cpu_kernels.library.sincos_array(*pointers, ctypes.c_int64(x.size))
    allowed = 2e-7 * (1 + np.abs(x) / 100)
    assert (np.abs(sine - np.sin(x.astype(np.float64))) <= allowed).all()
    assert (np.abs(cosine - np.cos(x.astype(np.float64))) <= allowed).all()


@pytest.mark.parametrize("seed", [0, 1, 2, 18, 7, 20])  # the latter three are 300 wide
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
    loss, gradient = kernels.loss(layers, omega_0, order, scale, points, target, None)
    again, same = kernels.loss(layers, omega_0, order, scale, points, target, None)
    assert loss == again
    assert (gradient == same).all()

    exact = streams(float64(layers), omega_0, points.astype(np.float64), scale.astype(np.float64))
    exact = np.stack(exact[{0: slice(0, 1), 1: slice(1, 3), 2: slice(3, 4)}[order]], axis=1)
    assert loss == pytest.approx(((exact - target) ** 2).mean(), rel=tolerance)
    jt.flags.use_cuda = 0  # the CPU's kernels
    _, expected = JittorKernels("fp32").loss(layers, omega_0, order, scale, points, target, None)
    assert relative_error(gradient, expected) < tolerance


# ---- the Jittor binding -----------------------------------------------------------------------


@pytest.mark.parametrize("order", [0, 1, 2])
def test_both_engines_are_interchangeable_in_any_loss(order):
    jt.set_global_seed(order)
    rng = np.random.default_rng(order)
    network = Siren(out_features=3, hidden_features=40, hidden_layers=2)
    shape = (9, 12)
    x = jt.array(grid(*shape)).stop_grad()
    kinds = {0: 1, 1: 2, 2: 1}[order]
    target = jt.array(rng.normal(size=(108, kinds, 3)).astype(np.float32))
    weight = jt.array(rng.uniform(size=108).astype(np.float32))

    results = []
    for module in (reference, Fused()):
        streams = module.streams(network, x, order, spacing(*shape))
        assert len(streams) == reference.STREAMS[order]
        losses = [
            module.squared_error(network, x, target, order, spacing(*shape)),
            module.squared_error(network, x, target, order, spacing(*shape), weight),
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


@pytest.mark.parametrize("n", [1, 7, 64, 100, 256])
def test_orthogonalisation_is_the_reference_engines(n):
    rng = np.random.default_rng(n)
    matrices = jt.array(rng.normal(size=(3, n, n)).astype(np.float32))
    expected = reference.orthogonalize(matrices).numpy()
    assert relative_error(Fused().orthogonalize(matrices).numpy(), expected) < 1e-4


def test_training_is_the_same_with_both_engines_and_repeats_bit_for_bit(data):
    def run(module):
        jt.set_global_seed(5)
        network = Siren(hidden_features=48)
        task = Fit(read_image(data / "camera.png", 1, (32, 40)))
        optimizer = Muon(network, module, learning_rate=2e-3, adam_rate=1e-3)
        result = training.train(network, task, module, 20, optimizer)
        return layers_of(network), result.best.loss

    (first, first_loss), (again, again_loss) = run(Fused()), run(Fused())
    for one, other in zip(first, again):
        assert (one[0] == other[0]).all()
        assert (one[1] == other[1]).all()
    assert first_loss == again_loss
    _, loss = run(reference)
    assert first_loss == pytest.approx(loss, rel=1e-2)


def test_an_engine_that_fails_is_replaced_with_one_sentence(monkeypatch, capsys):
    assert engine.choose("fused") == Fused("fp32")
    assert engine.choose("reference") is reference
    assert capsys.readouterr().err == ""

    def fails(*_):
        raise RuntimeError("log\nfatal error: omp.h: No such file\nmore log")

    def lies(self, network, coordinates, order):
        return [coordinates[:, :1]]

    for broken, reason in ((fails, "omp.h"), (lies, "wrong values")):
        monkeypatch.setattr(Fused, "streams", broken)
        assert engine.choose("fused") is reference
        (line,) = capsys.readouterr().err.splitlines()
        assert reason in line
        assert "--engine reference" in line
