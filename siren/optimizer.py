"""Adam (Kingma and Ba 2015, arXiv:1412.6980), on lists of Jittor Vars."""

from __future__ import annotations

import jittor as jt


class Adam:
    """Adam with bias correction, over ``parameters``, a list of float32 Vars updated in place."""

    def __init__(self, parameters, learning_rate: float, betas=(0.9, 0.999), epsilon: float = 1e-8):
        self.parameters = parameters
        self.learning_rate = learning_rate
        self.betas = betas
        self.epsilon = epsilon
        self.steps = 0
        self.mean = [jt.zeros_like(p).stop_grad() for p in parameters]
        self.square = [jt.zeros_like(p).stop_grad() for p in parameters]

    def step(self, gradients):
        """One update; ``gradients`` is a list of Vars of the parameters' shapes."""
        self.steps += 1
        beta_1, beta_2 = self.betas
        rate = self.learning_rate / (1 - beta_1**self.steps)
        correction = (1 - beta_2**self.steps) ** 0.5
        for p, g, mean, square in zip(self.parameters, gradients, self.mean, self.square):
            mean.update(beta_1 * mean + (1 - beta_1) * g)
            square.update(beta_2 * square + (1 - beta_2) * g * g)
            p.update(p - rate * mean / (square.sqrt() / correction + self.epsilon))
