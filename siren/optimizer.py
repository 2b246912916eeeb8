"""Optimisers on lists of Jittor Vars, and schedules of their learning rates."""

from __future__ import annotations

import math

import jittor as jt


class Adam:
    """Adam with bias correction (Kingma and Ba 2015, arXiv:1412.6980).

    ``parameters`` is a list of float32 Vars, updated in place.
    """

    def __init__(self, parameters, learning_rate: float, betas=(0.9, 0.999), epsilon: float = 1e-8):
        self.parameters = parameters
        self.learning_rate = learning_rate
        self.betas = betas
        self.epsilon = epsilon
        self.steps = 0
        self.mean = [jt.zeros_like(p).stop_grad() for p in parameters]
        self.square = [jt.zeros_like(p).stop_grad() for p in parameters]

    def state(self) -> list:
        """The Vars that ``restore`` needs to go on."""
        return [*self.mean, *self.square]

    def restore(self, arrays, steps: int) -> None:
        """Go on as if ``steps`` had been done, from the values of ``state()`` then."""
        self.steps = steps
        for var, array in zip(self.state(), arrays):
            var.update(jt.array(array))

    def step(self, gradients, factor: float = 1.0):
        """One update at ``factor`` times the learning rate; a gradient for each parameter."""
        self.steps += 1
        beta_1, beta_2 = self.betas
        rate = factor * self.learning_rate / (1 - beta_1**self.steps)
        correction = (1 - beta_2**self.steps) ** 0.5
        for p, g, mean, square in zip(self.parameters, gradients, self.mean, self.square):
            mean.update(beta_1 * mean + (1 - beta_1) * g)
            square.update(beta_2 * square + (1 - beta_2) * g * g)
            p.update(p - rate * mean / (square.sqrt() / correction + self.epsilon))


class Muon:
    """Muon on the hidden matrices of a ``Siren``, Adam on all its other parameters.

    A hidden matrix moves by ``learning_rate`` times its orthogonalised momentum, in Nesterov's form
    (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks").

    ``engine`` supplies ``orthogonalize``; ``adam_rate`` is the learning rate of the rest.
    """

    def __init__(
        self, network, engine, learning_rate: float, adam_rate: float, momentum: float = 0.95
    ):
        self.flat = network.flat
        self.engine = engine
        self.learning_rate = learning_rate
        self.momentum = momentum
        # The hidden layers lie together, each a matrix (n, n) and its bias (n,).
        self.count, self.n = network.hidden_layers, network.hidden_features
        layer = self.n * self.n + self.n
        self.start = self.n * (network.widths[0] + 1)  # after the first layer
        self.stop = self.start + self.count * layer
        self.average = jt.zeros((self.count, self.n, self.n)).stop_grad()
        self.adam = Adam([self.flat], adam_rate)

    def state(self) -> list:
        """As ``Adam.state``."""
        return [self.average, *self.adam.state()]

    def restore(self, arrays, steps: int) -> None:
        """As ``Adam.restore``."""
        self.average.update(jt.array(arrays[0]))
        self.adam.restore(arrays[1:], steps)

    def step(self, gradients, factor: float = 1.0):
        """One update at ``factor`` times both rates; ``gradients`` has that of ``network.flat``."""
        matrices = self._matrices(self.flat)
        self.adam.step(gradients, factor)
        if self.count == 0:
            return
        gradient = self._matrices(gradients[0])
        self.average.update(self.momentum * self.average + gradient)
        direction = self.engine.orthogonalize(self.momentum * self.average + gradient)
        matrices = (matrices - factor * self.learning_rate * direction).reshape((self.count, -1))
        biases = self._layers(self.flat)[:, self.n * self.n :]
        hidden = jt.concat([matrices, biases], dim=1).reshape((-1,))
        self.flat.update(
            jt.concat([self.flat[: self.start], hidden, self.flat[self.stop :]], dim=0)
        )

    def _layers(self, flat):
        return flat[self.start : self.stop].reshape((self.count, -1))

    def _matrices(self, flat):
        return self._layers(flat)[:, : self.n * self.n].reshape((self.count, self.n, self.n))


def constant(progress: float) -> float:
    """Factor of the learning rate when the share ``progress`` of all steps is done."""
    return 1.0


def linear(progress: float) -> float:
    """From 1 to 0 on a straight line."""
    return 1 - progress


def cosine(progress: float) -> float:
    """From 1 to 0 along half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * progress))
