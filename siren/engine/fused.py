"""The fused CPU engine: one pass over small tiles of points, in C++ (``siren_cpu.h``).

It computes what ``reference`` defines. Activations never leave the cache, so that memory does not
grow with the number of points, and derivatives are recomputed where they are needed again.
"""

from __future__ import annotations

from pathlib import Path

import jittor as jt
import numpy as np

from siren.engine.reference import STREAMS
from siren.network import Siren

_COMPILER_FLAGS = f'FLAGS: -I"{Path(__file__).resolve().parent}" '


def why_unusable() -> str | None:
    """Try the engine on a network small enough to check in NumPy: None, or what goes wrong."""
    if jt.flags.use_cuda:
        return "it has no GPU kernels"
    network = Siren(hidden_features=3, hidden_layers=1)
    points = np.linspace(-1, 1, 10, dtype=np.float32).reshape(5, 2)
    expected = points
    *hidden, output = [(p.weight.numpy(), p.bias.numpy()) for p in network.linears]
    for weight, bias in hidden:
        expected = np.sin(network.omega_0 * (expected @ weight.T + bias))
    expected = expected @ output[0].T + output[1]
    try:
        (values,) = streams(network, jt.array(points), 0)
        values = values.numpy()
    except RuntimeError as error:
        lines = [line for line in str(error).splitlines() if "error" in line.lower()]
        return (lines or ["Jittor cannot run it"])[-1].strip()
    return None if np.allclose(values, expected, atol=1e-5) else "it computes wrong values"


def streams(network, coordinates, order, scale=(1.0, 1.0)):
    """As ``reference.streams``; differentiable in the parameters, not in the coordinates."""
    output = _Streams()(_flat(network), coordinates, _numbers(network, order, scale))
    return [output[:, stream] for stream in range(STREAMS[order])]


def squared_error(network, coordinates, target, order, scale=(1.0, 1.0), weight=None):
    """As ``reference.squared_error``; loss and gradient are computed in a single pass."""
    numbers = _numbers(network, order, scale)
    return _SquaredError()(_flat(network), coordinates, target, weight, numbers)


def orthogonalize(matrix):
    """As ``reference.orthogonalize``."""
    (result,) = _code(
        [matrix.shape], [matrix], "siren::orthogonalize(in0_p, int(in0_shape0), out0_p);", {}
    )
    return result


class _Streams(jt.Function):
    """Output (N, streams, channels) as a function of the flat parameters."""

    def execute(self, parameters, coordinates, numbers):
        self.saved = parameters, coordinates, numbers
        shape = (coordinates.shape[0], STREAMS[numbers["order"]], numbers["channels"])
        return _code(
            [shape],
            [parameters, coordinates],
            "siren::Call(data).streams(in0_p, in1_p, in1_shape0, out0_p);",
            numbers,
        )[0]

    def grad(self, cotangent):
        parameters, coordinates, numbers = self.saved
        (gradient,) = _code(
            [parameters.shape],
            [parameters, coordinates, cotangent],
            "siren::Call(data).product(in0_p, in1_p, in2_p, in1_shape0, out0_p);",
            numbers,
        )
        return gradient, None, None


class _SquaredError(jt.Function):
    """Loss as a function of the flat parameters; its gradient is known as soon as the loss is."""

    def execute(self, parameters, coordinates, target, weight, numbers):
        weights = [] if weight is None else [weight]
        pointer = "in3_p" if weights else "nullptr"
        loss, self.gradient = _code(
            [(1,), parameters.shape],
            [parameters, coordinates, target, *weights],
            "siren::Call(data).loss("
            f"in0_p, in1_p, in2_p, {pointer}, in1_shape0, out0_p, out1_p);",
            numbers,
        )
        return loss

    def grad(self, cotangent):
        return cotangent * self.gradient, None, None, None, None


def _code(shapes, inputs, source, numbers):
    """Run one of the kernels as a Jittor operation with float32 inputs and outputs."""
    outputs = jt.code(
        [tuple(shape) for shape in shapes],
        ["float32"] * len(shapes),
        inputs,
        cpu_header='#include "binding.h"',
        cpu_src=source,
        data=numbers,
    )
    outputs[0].compile_options = {_COMPILER_FLAGS: 1}
    return outputs


def _flat(network):
    """All parameters as one Var, in the order that ``binding.h`` describes."""
    parts = [p for linear in network.linears for p in (linear.weight, linear.bias)]
    return jt.concat([part.reshape((-1,)) for part in parts], dim=0)


def _numbers(network, order, scale):
    first, *hidden, output = network.linears
    return {
        "width": first.out_features,
        "hidden_layers": len(hidden),
        "channels": output.out_features,
        "omega_0": network.omega_0,
        "order": order,
        "scale_row": scale[0],
        "scale_column": scale[1],
    }
