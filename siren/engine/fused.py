"""The fused engine: kernels for the CPU (``cpu/``) and for NVIDIA GPUs (``cuda/``).

It computes what ``reference`` defines, in one pass over the points. On the CPU activations never
leave the cache, on a GPU they stay in a buffer of bounded size, so that memory does not grow with
the number of points; derivatives are recomputed where they are needed again. ``README.md``, beside
this file, is the map of the kernels.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path

import jittor as jt

from siren.engine import reference
from siren.engine.reference import FLOAT32, STREAMS
from siren.runtime import shell_safe
from siren.runtime.machine import allow_amx

PRECISIONS = ("fp32", "fp16", "bf16", "bf16x2")
LARGEST_GRID = 65535  # blocks along y: a kernel has one for each row of all hidden matrices
NARROW = 256  # units, up to which a GPU has kernels of their own

_COMPILER_OPTIONS = {f'FLAGS: -I"{shell_safe(Path(__file__).resolve().parent)}" ': 1}
_POLYNOMIALS = (  # a std::vector<Polynomial>
    "{" + ", ".join(f"{{{a}f, {b}f, {c}f}}" for a, b, c in reference.POLYNOMIALS) + "}"
)


@dataclass(frozen=True)
class Fused:
    """The engine, with the functions of ``reference``.

    precision  of the numbers that enter matrix products, one of ``PRECISIONS``. On a GPU: fp32 (22
               bits), fp16 (11 bits, as TF32 has), bf16 (8 bits). On a CPU: bf16x2 (16 bits, two
               bf16 for each number) where it has AMX, else ValueError; the others are all float32
               (24 bits). Sums are float32 in any case.
    """

    precision: str = "fp32"

    def __post_init__(self):
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"there is no precision {self.precision!r}; there are {', '.join(PRECISIONS)}"
            )
        if self.precision == "bf16x2" and not allow_amx():
            raise ValueError("the precision bf16x2 needs a processor with AMX")

    def streams(self, network, coordinates, order, scale=(1.0, 1.0)):
        """As ``reference.streams``; differentiable in the parameters, not in the coordinates.

        Where no gradients are kept (``jittor.no_grad``) a GPU's precision is fp32: what is looked
        at or saved is what the parameters mean.
        """
        numbers = _numbers(network, order, scale)
        reference.check_array("coordinates", coordinates, (None, 2))
        precision = "fp32" if jt.flags.no_grad and jt.flags.use_cuda else self.precision
        inputs = [network.flat.tape(), coordinates]
        shape = coordinates.shape[0], STREAMS[order], network.out_features
        call = "streams(in0_p, in1_p, in1_shape0, out0_p)"
        output = _pass([shape], inputs, call, numbers, precision)[0].tape()

        def gradient(cotangent):
            call = "product(in0_p, in1_p, in2_p, in1_shape0, out0_p)"
            return _pass([inputs[0].shape], [*inputs, cotangent], call, numbers, precision)

        jt.tape_together(inputs[:1], [output], gradient)
        if order == 0:
            return [output.reshape((shape[0], shape[2]))]  # which copies nothing
        return [output[:, stream] for stream in range(STREAMS[order])]

    def squared_error(self, network, batch, order, scale=(1.0, 1.0)):
        """As ``reference.squared_error``; loss and gradient are computed in a single pass.

        Where no gradients are kept, the loss alone is, for a third of the cost.
        """
        if jt.flags.no_grad:
            return reference.squared_error(network, batch, order, scale, self.streams)
        numbers = _numbers(network, order, scale)
        if isinstance(batch, _StoredBatch):
            wanted = reference.target_shape(network, order)
            if tuple(batch.points.target_shape) != wanted:
                raise ValueError(f"targets must be (n, {wanted[0]}, {wanted[1]})")
            call = f'loss(in0_p, {batch.arguments(1)}, data["weight"], out0_p, out1_p)'
            inputs, numbers = batch.inputs(), {**numbers, **batch.numbers()}
        else:
            inputs, numbers = [batch.coordinates, batch.target], {**numbers, "weight": batch.weight}
            reference.check_array("coordinates", batch.coordinates, (None, 2))
            reference.check_target(network, batch.coordinates, batch.target, order)
            call = 'loss(in0_p, in1_p, in2_p, in1_shape0, data["weight"], out0_p, out1_p)'
        return _differentiate(network, inputs, call, numbers, self.precision)

    def variation(self, network, points, field, smallest, weight, scale=(1.0, 1.0), plus=None):
        """As ``reference.variation``; on a GPU in a single pass over the points."""
        if jt.flags.no_grad or not jt.flags.use_cuda:
            arguments = network, points, field, smallest, weight, scale, plus
            return reference.variation(*arguments, self.streams)
        reference.check_array("field", field, (None, None, 3))
        added = [] if plus is None else [plus, self.gradient(plus, network)]
        height, width, _ = field.shape
        numbers = {
            **_numbers(network, 1, scale),
            **vars(points),
            "height": height,
            "grid_width": width,
            "smallest": smallest,
            "weight": weight,
        }
        call = (
            'variation(in0_p, siren::gpu::RandomPoints(data, in1_p), int64_t(data["count"]), '
            'float(data["smallest"]), data["weight"], '
            f"{{out0_p, out1_p, {'in2_p, in3_p' if added else 'nullptr, nullptr'}}})"
        )
        return _differentiate(network, [field, *added], call, numbers, self.precision)

    def gradient(self, loss, network):
        """As ``reference.gradient``; at once for what ``squared_error`` or ``variation`` gave."""
        known = getattr(loss, "known_gradient", None)
        if known is None:
            return reference.gradient(loss, network)
        loss.known_gradient = None  # losses that wait to be read must not keep their gradients
        return known

    def gather(self, points, selection, weight=1.0):
        """As ``reference.gather``; on a GPU without a list of the points."""
        make = _StoredBatch if jt.flags.use_cuda else reference.gather
        return make(points, selection, weight)

    def orthogonalize(self, matrices):
        """As ``reference.orthogonalize``."""
        if jt.flags.use_cuda:
            return reference.orthogonalize(matrices)
        reference.check_array("matrices", matrices, (None, *2 * [matrices.shape[-1]]))
        (result,) = _code(
            [matrices.shape],
            [matrices],
            "siren::orthogonalize(in0_p, int(in0_shape0), int(in0_shape1), "
            f"{_POLYNOMIALS}, out0_p);",
            {},
            amx=self.precision == "bf16x2",
        )
        return result

    def adam(self, parameters, gradient, mean, square, numbers):
        """As ``reference.adam``."""
        if jt.flags.use_cuda:
            return reference.adam(parameters, gradient, mean, square, numbers)
        _check(parameters.shape, gradient=gradient, mean=mean, square=square)
        return _code(
            [parameters.shape] * 3,
            [parameters, gradient, mean, square],
            "siren::Adam(data).all({in0_p, in1_p, in2_p, in3_p}, {out0_p, out1_p, out2_p}, "
            "in0->num);",
            numbers._asdict(),
        )

    def muon(self, network, gradient, average, mean, square, adam_numbers, numbers):
        """As ``reference.muon``, in one operation."""
        if jt.flags.use_cuda and self.precision == "fp32":
            return reference.muon(network, gradient, average, mean, square, adam_numbers, numbers)
        start, count, n = reference.hidden_matrices(network)
        others = (network.flat.shape[0] - count * n * n,)
        _check(network.flat.shape, gradient=gradient)
        _check((count, n, n), average=average)
        _check(others, mean=mean, square=square)
        place = {"start": start, "count": count, "width": n}
        new_flat, new_mean, new_square, new_average = _code(
            [network.flat.shape, mean.shape, square.shape, average.shape],
            [network.flat, gradient, mean, square, average],
            f"siren::Muon(data, {_POLYNOMIALS}).step({{in0_p, in1_p, in2_p, in3_p}}, "
            "{out0_p, out1_p, out2_p}, in4_p, out3_p, in0->num);",
            {**adam_numbers._asdict(), **numbers._asdict(), **place},
            header=f"#define SIREN_PRECISION {self.precision.capitalize()}\n"
            f"#define SIREN_NARROW {int(n <= NARROW)}\n"
            '#include "cuda/optimizer.h"',
            amx=self.precision == "bf16x2",
        )
        return new_flat, new_average, new_mean, new_square


class _StoredBatch:
    """As ``samples.Batch``: points on a GPU, which a loss gathers; Vars are made when asked for."""

    def __init__(self, points, selection, weight):
        self.points, self.selection, self.weight = points, selection, weight

    @property
    def coordinates(self):
        return self._gathered[0]

    @property
    def target(self):
        return self._gathered[1]

    @functools.cached_property
    def _gathered(self):
        n = len(self.selection)
        return _code(
            [(n, 2), (n, *self.points.target_shape)],
            self.inputs(),
            f"siren::gpu::gather({self.arguments(0)}, out0_p, out1_p);",
            self.numbers(),
            header='#include "cuda/points.h"',
        )

    def inputs(self) -> list:
        """The Vars that a kernel reads; others of the same type in the place of missing ones."""
        points = self.points
        levels = points.axes if points.levels is None else points.levels
        pixels = points.shape if points.pixels is None else points.pixels
        return [points.values, points.axes, levels, pixels]

    @staticmethod
    @functools.cache
    def arguments(first: int) -> str:
        """What a kernel gets, if those Vars are its inputs from number ``first`` on."""
        pointers = ", ".join(f"in{i}_p" for i in range(first, first + 4))
        return f"siren::gpu::Selection(data), siren::gpu::stored_points(data, {pointers})"

    def numbers(self) -> dict:
        """What kernels need to know of the points and the selection."""
        height, width = self.points.grid_shape
        return {
            **vars(self.selection),
            "weight": self.weight,
            "stored": self.points.first,
            "height": height,
            "grid_width": width,
            "targets": math.prod(self.points.target_shape),
            "listed": int(self.points.pixels is not None),
        }


def _check(shape, **arrays) -> None:
    for name, array in arrays.items():
        reference.check_array(name, array, shape)


def _differentiate(network, given, call, numbers, precision):
    """A loss as a function of the flat parameters; its gradient is known as soon as the loss is.

    ``call`` is what computes it; its inputs are the parameters and the Vars ``given``. This is what
    ``jt.Function`` does, in a third of its time.
    """
    parameters = network.flat.tape()
    shapes, inputs = [(1,), parameters.shape], [parameters, *given]
    loss, gradient = _pass(shapes, inputs, call, numbers, precision)
    loss = loss.tape()
    jt.tape_together([parameters], [loss], lambda cotangent: [cotangent * gradient])
    loss.known_gradient = gradient
    return loss


def check_widths(widths) -> int:
    """The parameters of a network of these widths; ValueError if the kernels cannot take it."""
    return _parameters(tuple(widths), bool(jt.flags.use_cuda))


@functools.lru_cache(maxsize=8)
def _parameters(widths: tuple[int, ...], on_gpu: bool) -> int:
    width, layers = widths[1], len(widths) - 3
    count = sum(n * (m + 1) for m, n in zip(widths, widths[1:]))
    fits = widths[0] == 2 and layers > 0 and count < 2**31
    if not fits or (on_gpu and max(width + 255, width * layers) > LARGEST_GRID):
        raise ValueError(
            "the fused engine takes networks of 2 inputs, at least one hidden layer after the "
            f"first, fewer than 2^31 parameters and, on a GPU, up to {LARGEST_GRID} hidden units "
            f"in all, not those of {widths[0]} inputs and {layers} such layers of {width} units; "
            "the reference engine takes any"
        )
    return count


def _numbers(network, order, scale):
    """What the kernels need to know besides arrays; ValueError for what they cannot compute."""
    count = check_widths(network.widths)
    reference.check_order(network, order)
    if network.flat.shape != [count]:
        raise ValueError(f"the network has {network.flat.shape} parameters, not {count}")
    return {
        "width": network.hidden_features,
        "hidden_layers": network.hidden_layers,
        "channels": network.out_features,
        "omega_0": network.omega_0,
        "order": order,
        "scale_row": scale[0],
        "scale_column": scale[1],
    }


def _pass(shapes, inputs, call, numbers, precision):
    """A pass through the network, by a function of ``siren::Call``.

    A GPU's kernels are compiled for one order, precision and number of channels at a time, and for
    networks up to ``NARROW`` (``column_tile`` in ``cuda/parameters.h``) or for wider ones.
    """
    header = (
        f"#define SIREN_ORDER {numbers['order']}\n"
        f"#define SIREN_PRECISION {precision.capitalize()}\n"
        f"#define SIREN_CHANNELS {numbers['channels']}\n"
        f"#define SIREN_NARROW {int(numbers['width'] <= NARROW)}\n"
        '#include "cuda/binding.h"'
    )
    source, amx = f"siren::Call(data).{call};", precision == "bf16x2"
    return _code(shapes, inputs, source, numbers, header, amx)


def _code(shapes, inputs, source, numbers, header="", amx=False):
    """Run one of the kernels as a Jittor operation with float32 outputs.

    ``header`` is for a GPU; a CPU's kernels have one for all, with ``amx`` or without. There is no
    source for the other device: Jittor would tell those of different headers apart, and compile
    what is one kernel on a CPU several times at once, into the same file.
    """
    if jt.flags.use_cuda:
        sources = {"cuda_header": header, "cuda_src": source}
    else:
        included = "#define SIREN_AMX\n" * amx + '#include "cpu/binding.h"'
        sources = {"cpu_header": included, "cpu_src": source}
    outputs = jt.code(shapes, [FLOAT32] * len(shapes), inputs, **sources, data=numbers)
    outputs[0].compile_options = _COMPILER_OPTIONS
    return outputs
