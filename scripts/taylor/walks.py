"""Steps of an optimizer on all weights in one vector, from gradients at the walk's start or along its way.

P weights.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor


@dataclass
class Sgd:
    """Plain gradient descent."""

    rate: float

    def begin(self) -> Callable[[Tensor, Tensor], Tensor]:
        """A step: (weights, gradient) -> weights, both [P]."""
        return lambda weights_P, gradient_P: weights_P - self.rate * gradient_P

    def scaled(self, factor: float) -> "Sgd":
        return replace(self, rate=self.rate * factor)


@dataclass
class AdamW:
    """torch's AdamW as it stands after `steps` steps, with clipping before it; decay_P is each weight's own decay."""

    rate: float
    steps: int
    mean_P: Tensor
    square_P: Tensor
    decay_P: Tensor
    clip: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8

    def begin(self) -> Callable[[Tensor, Tensor], Tensor]:
        """A step: (weights, gradient) -> weights, both [P]; its moments go on from step to step."""
        mean_P, square_P, steps = self.mean_P.clone(), self.square_P.clone(), self.steps
        first, second = self.betas

        def step(weights_P: Tensor, gradient_P: Tensor) -> Tensor:
            nonlocal steps
            steps += 1
            if self.clip > 0:
                gradient_P = gradient_P * (self.clip / (gradient_P.norm() + 1e-6)).clamp(max=1.0)
            mean_P.lerp_(gradient_P, 1 - first)
            square_P.mul_(second).addcmul_(gradient_P, gradient_P, value=1 - second)
            root_P = (square_P / (1 - second**steps)).sqrt() + self.eps
            return weights_P * (1 - self.rate * self.decay_P) - self.rate * mean_P / (1 - first**steps) / root_P

        return step

    def scaled(self, factor: float) -> "AdamW":
        return replace(self, rate=self.rate * factor)

    def preconditioned(self, gradient_P: Tensor) -> Tensor:
        """gradient / (sqrt(second moment) + eps), as of the last step."""
        return gradient_P / ((self.square_P / (1 - self.betas[1] ** self.steps)).sqrt() + self.eps)


def walk(optimizer: Sgd | AdamW, start_P: Tensor, gradients: list[Callable[[Tensor], Tensor]]) -> Tensor:
    """Where the steps lead, [P]: the h-th takes the gradient that gradients[h] makes of the weights there."""
    weights_P, step = start_P, optimizer.begin()
    for gradient in gradients:
        weights_P = step(weights_P, gradient(weights_P))
    return weights_P
