"""A trial of an engine: all that runs will use, on a few points, against float64 NumPy.

``python -m siren.engine.trial JSON ...``, with what ``Workload.to_json`` gives, is the same trial
in a process of its own, which a broken compiler or kernel may end. Status 0: it works; else a line
says why not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jittor as jt
import numpy as np

from siren.engine.fused import NARROW, Fused, check_widths
from siren.engine.reference import POLYNOMIALS, STREAMS, AdamNumbers, MuonNumbers
from siren.engine.workload import Workload
from siren.network import Siren
from siren.runtime import start
from siren.runtime.messages import telling_line
from siren.samples import DevicePoints, Points, RandomPoints, Selection

POINTS = 7
# Of the largest value, at 5 layers or fewer
TOLERANCE = {"fp32": 1e-3, "bf16x2": 3e-3, "fp16": 3e-2, "bf16": 0.2}
# Numbers of a step that moves all parameters by about as much as they are.
ADAM = AdamNumbers(rate=0.5, correction=0.8, beta_1=0.9, beta_2=0.99, eps=1e-3)
MUON = MuonNumbers(matrix_rate=3.0, momentum=0.9)
SMALLEST = 0.1  # of a variation
STEP = 1e-30  # of a complex derivative
WIDEST, DEEPEST = 1024, 32  # larger networks meet the same kernels


def why_it_fails(*workloads: Workload) -> str | None:
    """What goes wrong when the fused engine does the ``workloads``, or None."""
    try:
        for each in workloads:  # before a network is drawn, because it may be too large for that
            check_widths([2, *[each.width] * (each.layers + 1), each.channels])
        trials = list(map(_Trial, workloads))
        checks = [check for trial in trials for check in trial.checks()]
        # Together, because what runs at the same time is compiled at the same time.
        jt.sync([result for check in checks for result in check.results])
        for check in checks:
            if not check.right(*(result.numpy() for result in check.results)):
                return check.otherwise
    except Exception as error:  # whatever Jittor, a compiler or a kernel thinks of
        return telling_line(str(error)) or type(error).__name__
    return None


def main(arguments: list[str]) -> str | None:
    """The trial in a process of its own; returns why it fails, for ``sys.exit``."""
    workloads, devices = zip(*map(Workload.from_json, arguments))
    workloads = [workload for workload in workloads if workload.has_kernels]
    if not workloads:
        return None
    start(devices[0])
    return why_it_fails(*workloads)


class _Check(NamedTuple):
    """Results of the engine that have been asked for, and what to say unless they are right."""

    results: list
    right: Callable[..., bool]  # called with the results as NumPy arrays
    otherwise: str


class _Trial:
    """A network of the kind that ``workload`` says, and points."""

    def __init__(self, workload: Workload):
        self.engine, self.workload = Fused(workload.precision), workload
        self.random = np.random.default_rng(0)
        width = workload.width if workload.width <= WIDEST else WIDEST - 256 + workload.width % 256
        # Rounding grows with omega, which no kernel depends on.
        self.omega_0 = min(workload.omega_0, 30.0)
        self.scale = (1 / self.omega_0, 1.25 / self.omega_0)
        layers = min(workload.layers, DEEPEST)
        self.network = Siren(workload.channels, 2, width, layers, self.omega_0)
        self.flat = self.network.flat.numpy().astype(np.float64)
        self.layers = self.network.split(self.flat)
        self.points = self._uniform(1, (POINTS, 2))
        self.coordinates = jt.array(self.points.astype(np.float32)).stop_grad()
        # Before all else, because this runs what has been asked for.
        orders = {*workload.losses, *([0] if workload.variation else [])}
        self.stored = {order: self._store(order) for order in sorted(orders)}

    def _uniform(self, bound, shape):
        """float32 numbers, so that both sides have the same, in float64."""
        values = self.random.uniform(-bound, bound, shape)
        return values.astype(np.float32).astype(np.float64)

    def checks(self) -> Iterator[_Check]:
        workload = self.workload
        yield from map(self.picture, workload.pictures)
        yield from map(self.loss, workload.losses)
        yield from map(self.product, workload.streams)
        if workload.variation:
            yield self.variation()
        if workload.losses or workload.streams:
            yield self.adam()
        if workload.muon and workload.layers > 0:
            yield self.muon()

    def tolerance(self, precision: str) -> float:
        return TOLERANCE[precision] * max(1, len(self.layers) / 5)

    def picture(self, order: int) -> _Check:
        """The streams without gradients, which are fp32."""
        with jt.no_grad():
            ours = self.engine.streams(self.network, self.coordinates, order, self.scale)

        def right(*ours):
            exact = streams(self.layers, self.omega_0, self.points, self.scale)
            return all(close(a, b, self.tolerance("fp32")) for a, b in zip(ours, exact))

        return _Check(ours, right, f"its streams of order {order} are wrong")

    def loss(self, order: int) -> _Check:
        otherwise = f"its squared error of order {order} or the gradient of that is wrong"
        return self.differentiable(*self.squared_error(order), otherwise)

    def _store(self, order: int) -> tuple[Points, DevicePoints]:
        """Three times as many listed points as a batch has, with targets for a loss."""
        pixels = np.arange(3, 3 + 3 * POINTS)
        values = self._uniform(1, (len(pixels), 2 if order == 1 else 1, self.workload.channels))
        values = values.astype(np.float32)
        if self.workload.compact:  # as those of a picture of 8 bits
            values = np.rint(127.5 * values + 127.5) / np.float32(127.5) - 1
        points = Points((9, 12), values, pixels)
        return points, DevicePoints(points)

    def squared_error(self, order: int):
        """The engine's, of a batch, and the exact one as a function of layers."""
        supervised = (slice(0, 1), slice(1, 3), slice(3, 4))[order]
        points, on_device = self.stored[order]
        selection = Selection(0, POINTS, steps=3, key=12345, place=1)
        indices = selection.indices()
        coordinates = points.coordinates[indices].astype(np.float64)
        target = points.target[indices].astype(np.float64)

        def loss_of(layers):
            exact = streams(layers, self.omega_0, coordinates, self.scale)[supervised]
            return ((np.stack(exact, axis=1) - target) ** 2).mean()

        batch = self.engine.gather(on_device, selection)
        return self.engine.squared_error(self.network, batch, order, self.scale), loss_of

    def product(self, order: int) -> _Check:
        """The gradient of a random combination of all streams."""
        factors = self._uniform(1, (STREAMS[order], POINTS, self.workload.channels))

        def loss_of(layers):
            exact = streams(layers, self.omega_0, self.points, self.scale)
            return sum((factor * stream).sum() for factor, stream in zip(factors, exact))

        ours = self.engine.streams(self.network, self.coordinates, order, self.scale)
        loss = sum((jt.array(a) * b).sum() for a, b in zip(factors.astype(np.float32), ours))
        gradient = jt.grad(loss, self.network.flat)
        otherwise = f"the gradient of its streams of order {order} is wrong"
        return _Check([gradient], partial(self.right_gradient, loss_of=loss_of), otherwise)

    def variation(self) -> _Check:
        """With tensors that are positive definite, as those of a picture are, added to a loss."""
        a, b, c = (self._uniform(1, (4, 5)) for _ in range(3))
        field = np.stack([a**2 + 1, a * b, b**2 + c**2], axis=2).astype(np.float32)
        points = RandomPoints(5, POINTS, 12345)
        coordinates = points.coordinates().astype(np.float64)
        rows, columns = np.rint((coordinates + 1) / 2 * [3, 4]).astype(int).T
        tensors = field[rows, columns].astype(np.float64)
        dd, de, ee = (tensors[:, k : k + 1] for k in range(3))
        plus, plus_of = self.squared_error(0)

        def loss_of(layers):
            _, rows, columns, _ = streams(layers, self.omega_0, coordinates, self.scale)
            energy = dd * rows**2 + 2 * de * rows * columns + ee * columns**2
            return 3 * np.sqrt(energy.mean(1) + SMALLEST**2).mean() + plus_of(layers)

        ours = self.engine.variation(
            self.network, points, jt.array(field), SMALLEST, 3.0, self.scale, plus
        )
        return self.differentiable(ours, loss_of, "its variation or the gradient of that is wrong")

    def differentiable(self, loss, loss_of, otherwise: str) -> _Check:
        """A loss and its gradient, which are to be those of a function of layers."""

        def right(value, gradient):
            expected = np.full_like(value, loss_of(self.layers))
            close_to_it = close(value, expected, self.tolerance(self.workload.precision))
            return close_to_it and self.right_gradient(gradient, loss_of)

        return _Check([loss, jt.grad(loss, self.network.flat)], right, otherwise)

    def right_gradient(self, gradient, loss_of) -> bool:
        """Compare it with a complex step (Squire and Trapp 1998), exact whatever its length.

        The step is along the gradient of each layer and in a random direction, and so long in each
        that all layers change the loss alike: an error in any of them shows.
        """
        gradient = gradient.astype(np.float64)
        ends = np.cumsum([weight.size + bias.size for weight, bias in self.layers])
        directions = []
        for ours in np.split(gradient, ends[:-1]):
            size, random = np.linalg.norm(ours), self.random.normal(size=ours.size)
            if not size > 0:
                return False
            directions.append((ours / size + random / np.linalg.norm(random)) / size)
        direction = np.concatenate(directions)
        exact = loss_of(self.network.split(self.flat + 1j * STEP * direction)).imag / STEP
        allowed = self.tolerance(self.workload.precision) * np.sqrt(len(ends))  # of their rounding
        return bool(abs(gradient @ direction - exact) <= allowed)

    def adam(self) -> _Check:
        """A step from random moments, long enough to show in the parameters."""
        flat, gradient, mean, square = arrays = self._state(self.network.flat.shape[0])
        ours = self.engine.adam(*_vars(arrays), ADAM)

        def right(*ours):
            return _alike(ours, adam_step(flat, gradient, mean, square))

        return _Check(ours, right, "its step of Adam is wrong")

    def muon(self) -> _Check:
        """A step of a network with two hidden matrices, of the width that it has or a like one.

        On a GPU tiles depend on the width of a wide network: it has its own, and one matrix.
        """
        width = self.network.hidden_features
        by_tiles = jt.flags.use_cuda and width > NARROW
        n = width if width <= 128 or by_tiles else 128 + width % 128
        count = 1 if by_tiles else 2
        network = Siren(self.workload.channels, 2, n, count)
        indices = np.arange(network.flat.shape[0])
        hidden = np.concatenate([layer.weight.ravel() for layer in network.split(indices)[1:-1]])
        others = np.delete(indices, hidden)
        arrays = flat, gradient, mean, square = self._state(len(indices))
        average = self._uniform(1, (count, n, n))
        vars = _vars([flat, gradient, average, mean[others], square[others]])
        network.flat = vars[0]
        ours = self.engine.muon(network, *vars[1:], ADAM, MUON)

        def right(new_flat, *moments):
            slopes = gradient[hidden].reshape(average.shape)
            new_average = MUON.momentum * average + slopes
            direction = orthogonalized(MUON.momentum * new_average + slopes)
            expected = flat.copy()
            expected[hidden] -= MUON.matrix_rate * direction.ravel()
            expected[others], *rest = adam_step(*(array[others] for array in arrays))
            # Only the direction, which moves the parameters, is of products of that precision.
            close_to_it = close(new_flat, expected, TOLERANCE[self.workload.precision])
            return close_to_it and _alike(moments, (new_average, *rest))

        return _Check(ours, right, "its step of Muon is wrong")

    def _state(self, n: int):
        """Parameters, gradient and Adam's moments, each (n,)."""
        flat, gradient, mean, square = (self._uniform(1, n) for _ in range(4))
        return flat, gradient, mean, np.abs(square)


def streams(layers, omega_0, points, scale):
    """[u, u_row, u_column, Laplacian] at ``points`` (N, 2), as ``reference.streams``, in NumPy.

    ``layers`` are pairs of weight and bias, which may be complex. The tests compare it with
    differences, which know nothing of the chain rule.
    """
    (weight, bias), *later = layers
    z = [points @ weight.T + bias]
    z += [np.broadcast_to(weight[:, axis] * scale[axis], z[0].shape) for axis in (0, 1)]
    z.append(np.zeros_like(z[0]))
    for weight, bias in later:
        s, c = np.sin(omega_0 * z[0]), omega_0 * np.cos(omega_0 * z[0])
        h = [s, c * z[1], c * z[2], c * z[3] - omega_0**2 * s * (z[1] ** 2 + z[2] ** 2)]
        z = [stream @ weight.T for stream in h]
        z[0] = z[0] + bias
    return z


def adam_step(flat, gradient, mean, square):
    """As ``reference.adam`` with the numbers ``ADAM``, in NumPy."""
    mean = ADAM.beta_1 * mean + (1 - ADAM.beta_1) * gradient
    square = ADAM.beta_2 * square + (1 - ADAM.beta_2) * gradient**2
    return flat - ADAM.rate * mean / (np.sqrt(square) / ADAM.correction + ADAM.eps), mean, square


def orthogonalized(matrices):
    """As ``reference.orthogonalize``, in NumPy, by singular values."""
    u, s, v = np.linalg.svd(matrices)
    s /= (s**8).sum(axis=1, keepdims=True) ** (1 / 8)
    for a, b, c in POLYNOMIALS:
        s = a * s + b * s**3 + c * s**5
    return u * s[:, None, :] @ v


def close(ours, exact, tolerance: float) -> bool:
    """Whether they differ by no more than a share of the largest; NaN is not close."""
    return bool(np.abs(ours - exact).max() <= tolerance * np.abs(exact).max())


def _alike(ours, expected) -> bool:
    """Whether float32 results are close to what they should be, one by one."""
    return all(close(one, other, TOLERANCE["fp32"]) for one, other in zip(ours, expected))


def _vars(arrays) -> list:
    return [jt.array(array.astype(np.float32)).stop_grad() for array in arrays]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
