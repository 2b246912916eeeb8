"""SIREN: a multilayer perceptron with sine activations (Sitzmann et al. 2020, arXiv:2006.09661)."""

from __future__ import annotations

import math

from jittor import init, nn, sin


class Sine(nn.Module):
    """The activation ``sin(omega_0 * z)``; any shape, float32."""

    def __init__(self, omega_0: float):
        self.omega_0 = omega_0

    def execute(self, z):
        """Apply the activation to every element of ``z``."""
        return sin(self.omega_0 * z)


class Siren(nn.Module):
    """Maps coordinates (N, in_features) to values (N, out_features), both float32.

    The first layer and ``hidden_layers`` further layers of ``hidden_features`` units are
    sine-activated, the output layer is linear:

        h_0 = x,   h_{l+1} = sin(omega_0 (W_l h_l + b_l)),   u = W_L h_L + b_L

    Weights are drawn as in section 3.2 and supplement 1.5 of the paper: U(-1/in, 1/in) in the first
    layer, U(-sqrt(6/in)/omega_0, sqrt(6/in)/omega_0) in every later one, the output layer included.
    Biases keep Jittor's ``nn.Linear`` default U(-1/sqrt(in), 1/sqrt(in)).
    ``jittor.set_global_seed`` makes the draw repeatable.

    Attributes: ``linears``, the ``nn.Linear`` layers from input to output (``weight`` (out, in),
    ``bias`` (out,)), and ``omega_0``.
    """

    def __init__(
        self,
        out_features: int = 1,
        in_features: int = 2,
        hidden_features: int = 256,
        hidden_layers: int = 3,
        omega_0: float = 30.0,
    ):
        self.omega_0 = omega_0
        self.sine = Sine(omega_0)
        widths = [in_features] + [hidden_features] * (hidden_layers + 1) + [out_features]
        self.linears = nn.ModuleList(
            [nn.Linear(fan_in, fan_out) for fan_in, fan_out in zip(widths, widths[1:])]
        )
        for depth, linear in enumerate(self.linears):
            fan_in = linear.in_features
            bound = 1 / fan_in if depth == 0 else math.sqrt(6 / fan_in) / omega_0
            init.uniform_(linear.weight, -bound, bound)

    def execute(self, coordinates):
        """Values at ``coordinates`` (N, in_features); returns (N, out_features)."""
        *hidden, output = self.linears
        h = coordinates
        for linear in hidden:
            h = self.sine(linear(h))
        return output(h)
