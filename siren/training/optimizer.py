"""Adam and Muon, and schedules of their learning rates.

Names and arguments are those of Jittor's optimisers. Only ``step`` differs: it takes gradients
instead of a loss, because a gradient may be a sum over strips of points and over processes; and it
takes a factor of the learning rate.
"""

from __future__ import annotations

import math

import jittor as jt


class Adam:
    """Adam with bias correction (Kingma and Ba 2015, arXiv:1412.6980).

    ``params`` is a list of float32 Vars, updated in place.
    """

    def __init__(self, params, lr: float, eps: float = 1e-8, betas=(0.9, 0.999)):
        self.params = list(params)
        self.lr = lr
        self.eps = eps
        self.betas = betas
        self.n_step = 0
        self.mean = [jt.zeros_like(p).stop_grad() for p in self.params]
        self.square = [jt.zeros_like(p).stop_grad() for p in self.params]

    def vars(self) -> list:
        """The Vars that a step changes, except the parameters."""
        return [*self.mean, *self.square]

    def state_dict(self) -> dict:
        """``n_step``, the number of steps so far, and ``moments``, NumPy arrays of ``vars()``."""
        return {"n_step": self.n_step, "moments": [var.numpy() for var in self.vars()]}

    def load_state_dict(self, state: dict) -> None:
        """Restore what ``state_dict`` returned."""
        self.n_step = state["n_step"]
        for var, array in zip(self.vars(), state["moments"]):
            var.update(jt.array(array))

    def step(self, gradients, factor: float = 1.0) -> None:
        """One update at ``factor`` times the learning rate; ``gradients`` has one per parameter."""
        self.n_step += 1
        beta_1, beta_2 = self.betas
        rate = factor * self.lr / (1 - beta_1**self.n_step)
        correction = (1 - beta_2**self.n_step) ** 0.5
        for p, g, mean, square in zip(self.params, gradients, self.mean, self.square):
            mean.update(beta_1 * mean + (1 - beta_1) * g)
            square.update(beta_2 * square + (1 - beta_2) * g * g)
            p.update(p - rate * mean / (square.sqrt() / correction + self.eps))


class Muon:
    """Muon on the hidden matrices of a ``Siren``, Adam on all its other parameters.

    A hidden matrix moves by ``lr`` times its orthogonalised momentum, in Nesterov's form
    (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks").

    ``engine`` supplies ``orthogonalize``; ``adam_lr`` is the learning rate of the rest.
    """

    def __init__(self, network, engine, lr: float, adam_lr: float, momentum: float = 0.95):
        self.flat = network.flat
        self.engine = engine
        self.lr = lr
        self.momentum = momentum
        # The hidden layers are contiguous in ``flat``, each a matrix (n, n) and its bias (n,).
        self.count, self.n = network.hidden_layers, network.hidden_features
        layer = self.n * self.n + self.n
        self.start = self.n * (network.widths[0] + 1)  # after the first layer
        self.stop = self.start + self.count * layer
        self.average = jt.zeros((self.count, self.n, self.n)).stop_grad()
        self.adam = Adam([self.flat], adam_lr)

    def vars(self) -> list:
        """As ``Adam.vars``."""
        return [self.average, *self.adam.vars()]

    def state_dict(self) -> dict:
        """As ``Adam.state_dict``."""
        return {"n_step": self.adam.n_step, "moments": [var.numpy() for var in self.vars()]}

    def load_state_dict(self, state: dict) -> None:
        """As ``Adam.load_state_dict``."""
        average, *moments = state["moments"]
        self.average.update(jt.array(average))
        self.adam.load_state_dict({"n_step": state["n_step"], "moments": moments})

    def step(self, gradients, factor: float = 1.0) -> None:
        """One update at ``factor`` times both rates; ``gradients`` is one, of ``network.flat``."""
        matrices = self._matrices(self.flat)
        self.adam.step(gradients, factor)
        if self.count == 0:
            return
        gradient = self._matrices(gradients[0])
        self.average.update(self.momentum * self.average + gradient)
        direction = self.engine.orthogonalize(self.momentum * self.average + gradient)
        matrices = (matrices - factor * self.lr * direction).reshape((self.count, -1))
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
    """Factor of the learning rate after the share ``progress`` in [0, 1] of all steps: 1."""
    return 1.0


def linear(progress: float) -> float:
    """Factor that falls from 1 to 0 linearly."""
    return 1 - progress


def cosine(progress: float) -> float:
    """Factor that falls from 1 to 0 along half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * progress))
