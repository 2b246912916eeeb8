"""Adam and Muon, and schedules of their learning rates.

Names and arguments are those of Jittor's optimizers. Only ``step`` differs: it takes gradients
instead of a loss, because a gradient may be a sum over strips of points and over processes; and it
takes a factor of the learning rate.
"""

from __future__ import annotations

import math

import jittor as jt
import numpy as np

from siren.engine import reference
from siren.engine.reference import AdamNumbers, MuonNumbers, hidden_matrices


class Adam:
    """Adam with bias correction (Kingma and Ba 2015, arXiv:1412.6980).

    ``params`` is a list of float32 Vars, updated in place. ``engine`` supplies ``adam``. ``n_step``
    is the number of steps so far.
    """

    def __init__(self, params, lr: float, eps: float = 1e-8, betas=(0.9, 0.999), engine=reference):
        self.params = list(params)
        self.lr = lr
        self.eps = eps
        self.betas = betas
        self.engine = engine
        self.n_step = 0
        self.mean = [_zeros(p.shape) for p in self.params]
        self.square = [_zeros(p.shape) for p in self.params]

    def vars(self) -> list:
        """The Vars that a step changes, except the parameters."""
        return [*self.mean, *self.square]

    def step(self, gradients, factor: float = 1.0) -> None:
        """One update at ``factor`` times the learning rate; ``gradients`` has one per parameter."""
        self.n_step += 1
        numbers = _adam_numbers(factor * self.lr, self.n_step, self.eps, self.betas)
        for p, gradient, mean, square in zip(self.params, gradients, self.mean, self.square):
            _update((p, mean, square), self.engine.adam(p, gradient, mean, square, numbers))


class Muon:
    """Muon on the hidden matrices of a ``Siren``, Adam on all its other parameters.

    A hidden matrix moves by ``lr`` times its orthogonalized momentum, in Nesterov's form
    (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks").

    ``engine`` supplies ``muon`` and ``adam``; ``adam_lr`` is the learning rate of the rest, and
    ``betas`` are Adam's. The defaults forget sooner than usual, which suits a few hundred steps.
    """

    def __init__(self, network, engine, lr: float, adam_lr: float, momentum=0.9, betas=(0.8, 0.99)):
        self.network = network
        self.engine = engine
        self.lr = lr
        self.adam_lr = adam_lr
        self.momentum = momentum
        self.betas = betas
        self.n_step = 0
        _, count, n = hidden_matrices(network)
        others = network.flat.shape[0] - count * n * n
        self.average = _zeros((count, n, n))
        self.mean, self.square = _zeros((others,)), _zeros((others,))

    def vars(self) -> list:
        """The Vars that a step changes, except the parameters."""
        return [self.average, self.mean, self.square]

    def step(self, gradients, factor: float = 1.0) -> None:
        """One update at ``factor`` times both rates; ``gradients`` is one, of ``network.flat``."""
        self.n_step += 1
        flat, (gradient,) = self.network.flat, gradients
        moments = self.mean, self.square
        adam_numbers = _adam_numbers(factor * self.adam_lr, self.n_step, betas=self.betas)
        if self.network.hidden_layers == 0:
            new = self.engine.adam(flat, gradient, *moments, adam_numbers)
            return _update((flat, *moments), new)
        numbers = MuonNumbers(factor * self.lr, self.momentum)
        new = self.engine.muon(
            self.network, gradient, self.average, *moments, adam_numbers, numbers
        )
        return _update((flat, self.average, *moments), new)


def _adam_numbers(lr: float, n_step: int, eps: float = 1e-8, betas=(0.9, 0.999)) -> AdamNumbers:
    """The numbers of Adam's step ``n_step``, the first being 1, at the learning rate ``lr``."""
    beta_1, beta_2 = betas
    rate, correction = lr / (1 - beta_1**n_step), (1 - beta_2**n_step) ** 0.5
    return AdamNumbers(rate, correction, beta_1, beta_2, eps)


def _zeros(shape):
    """Copied from the host: Jittor would compile four operations to make them on the device."""
    return jt.array(np.zeros(shape, np.float32)).stop_grad()


def _update(variables, values) -> None:
    for variable, value in zip(variables, values):
        variable.update(value)


def constant(progress: float) -> float:
    """Factor of the learning rate after the share ``progress`` in [0, 1] of all steps: 1."""
    return 1.0


def linear(progress: float) -> float:
    """Factor that falls from 1 to 0 linearly."""
    return 1 - progress


def cosine(progress: float) -> float:
    """Factor that falls from 1 to 0 along half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * progress))


#: The schedules of learning rates by name.
SCHEDULES = {"constant": constant, "linear": linear, "cosine": cosine}
