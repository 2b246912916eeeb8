"""SIREN: a multilayer perceptron with sine activations (Sitzmann et al. 2020, arXiv:2006.09661)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jittor as jt
import numpy as np
from jittor import nn, sin

from siren.samples import WEIGHTS, generator


class Sine(nn.Module):
    """The activation ``sin(omega_0 * z)``; any shape, float32."""

    def __init__(self, omega_0: float):
        self.omega_0 = omega_0

    def execute(self, z):
        """Apply the activation to every element of ``z``."""
        return sin(self.omega_0 * z)


class Layer(NamedTuple):
    """``weight`` (out, in) and ``bias`` (out,) of one linear layer; Vars or NumPy arrays."""

    weight: Any
    bias: Any

    def __call__(self, h):
        """Apply the layer to a Var (N, in); returns (N, out)."""
        return nn.matmul_transpose(h, self.weight) + self.bias


class Siren(nn.Module):
    """Maps coordinates (N, in_features) to values (N, out_features), both float32.

    The first layer and ``hidden_layers`` further layers of ``hidden_features`` units are
    sine-activated, the output layer is linear:

        h_0 = x,   h_{l+1} = sin(omega_0 (W_l h_l + b_l)),   u = W_L h_L + b_L

    Weights are drawn as in section 3.2 and supplement 1.5 of the paper: U(-1/in, 1/in) in the first
    layer, U(-sqrt(6/in)/omega_0, sqrt(6/in)/omega_0) in every later one, the output layer included.
    Biases are U(-1/sqrt(in), 1/sqrt(in)), as of Jittor's ``nn.Linear``. The draw depends on
    ``seed`` (at least 0) alone (``samples.generator``).

    ``omega_first``, by default ``omega_0``, is the frequency of the first layer at the start: its
    initial weights and biases are multiplied by omega_first / omega_0.

    Raises ValueError unless widths and frequencies are positive and ``hidden_layers`` is not
    negative.

    All parameters are one Var, ``flat``: weight (out, in) and bias (out,) of the first layer, of
    the second, and so on. ``parameters()`` contains that Var, which an optimizer updates.
    ``layers``, ``named_parameters()`` and ``state_dict()`` give views of it, layer by layer, called
    ``layers.0.weight``, ``layers.0.bias`` and so on; ``load_state_dict`` and ``load`` accept the
    same names. One Var is for speed: with ten, which would have to be packed for the kernels,
    Adam's part of a step takes 2.5 instead of 1.1 ms on two cores of Zen 3. (A whole step on a GPU
    takes 0.25 ms.)
    """

    def __init__(
        self,
        out_features: int = 1,
        in_features: int = 2,
        hidden_features: int = 256,
        hidden_layers: int = 3,
        omega_0: float = 30.0,
        omega_first: float | None = None,
        seed: int = 0,
    ):
        omega_first = omega_0 if omega_first is None else omega_first
        if min(out_features, in_features, hidden_features, hidden_layers + 1) < 1:
            raise ValueError("features must be at least 1, and hidden_layers at least 0")
        if not (0 < omega_0 < math.inf and 0 < omega_first < math.inf):  # nor NaN
            raise ValueError("the frequencies omega_0 and omega_first are positive and finite")
        self.out_features = out_features
        self.hidden_features = hidden_features
        self.hidden_layers = hidden_layers
        self.omega_0 = omega_0
        self.sine = Sine(omega_0)
        self.widths = [in_features] + [hidden_features] * (hidden_layers + 1) + [out_features]
        random, layers = generator(seed, WEIGHTS), []
        for depth, (fan_in, fan_out) in enumerate(zip(self.widths, self.widths[1:])):
            bound = 1 / fan_in if depth == 0 else math.sqrt(6 / fan_in) / omega_0
            factor = omega_first / omega_0 if depth == 0 else 1
            weight = factor * random.uniform(-bound, bound, (fan_out, fan_in))
            layers.append((weight, factor * random.uniform(-1, 1, fan_out) / math.sqrt(fan_in)))
        self.flat = jt.array(flatten(layers))

    @property
    def layers(self) -> list[Layer]:
        """The layers from input to output; differentiable views of ``flat``."""
        return self.split(self.flat)

    def split(self, flat) -> list[Layer]:
        """Cut an array laid out like ``flat``, a Var or NumPy, into layers."""
        layers = []
        start = 0
        for fan_in, fan_out in zip(self.widths, self.widths[1:]):
            middle, end = start + fan_out * fan_in, start + fan_out * (fan_in + 1)
            layers.append(Layer(flat[start:middle].reshape((fan_out, fan_in)), flat[middle:end]))
            start = end
        return layers

    @staticmethod
    def from_layers(layers, omega_0: float) -> Siren:
        """The network with these parameters: NumPy pairs (weight, bias) from input to output.

        Raises ValueError if their shapes do not fit each other.
        """
        (first, _), *hidden, (output, _) = layers
        network = Siren(
            out_features=output.shape[0],
            in_features=first.shape[1],
            hidden_features=first.shape[0],
            hidden_layers=len(hidden),
            omega_0=omega_0,
        )
        network.load_layers(layers)
        return network

    def load_layers(self, layers) -> None:
        """Copy ``layers`` into the network: NumPy pairs (weight, bias) of its shapes.

        Raises ValueError for other shapes.
        """
        layers, own = list(layers), self.split(self.flat.numpy())
        shapes, expected = ([np.shape(p) for pair in each for p in pair] for each in (layers, own))
        if shapes != expected:
            raise ValueError(f"parameters of shapes {shapes} do not fit {expected}")
        self.flat.update(jt.array(flatten(layers)))

    def state_dict(self, to=None, recurse=True) -> dict:
        """Weights and biases by name: Vars, or arrays for ``to="numpy"``, as in Jittor."""
        named = {}
        for depth, layer in enumerate(self.split(self.flat.numpy() if to else self.flat)):
            named[f"layers.{depth}.weight"], named[f"layers.{depth}.bias"] = layer
        return named

    def load_parameters(self, params) -> None:
        """Load what ``state_dict`` returned: Vars, NumPy arrays or PyTorch tensors by name.

        Parameters without an entry keep their values. Raises KeyError for an unknown name, and
        ValueError for a wrong shape.
        """
        arrays = self.state_dict(to="numpy")
        for name, values in params.items():
            if name not in arrays:
                raise KeyError(f"a Siren of {len(self.layers)} layers has no {name}")
            arrays[name] = values.numpy() if hasattr(values, "numpy") else np.asarray(values)
        pairs = iter(arrays.values())
        self.load_layers(list(zip(pairs, pairs)))

    load_state_dict = load_parameters

    def execute(self, coordinates):
        """Values at ``coordinates`` (N, in_features); returns (N, out_features)."""
        *hidden, output = self.layers
        h = coordinates
        for layer in hidden:
            h = self.sine(layer(h))
        return output(h)


def flatten(layers) -> np.ndarray:
    """NumPy pairs (weight, bias) as one float32 array, in the order of ``Siren.flat``."""
    return np.concatenate([np.ravel(p) for pair in layers for p in pair]).astype(np.float32)
