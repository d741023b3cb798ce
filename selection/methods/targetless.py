"""Methods that need no target samples: rivals that rank by the candidate alone."""

from torch import Tensor

from ..direction import Direction
from ..ghost import GhostRecorder
from .method import SCORING, Measured, Method


class GradNorm(Method):
    """The k largest gradients."""

    ranks_by = "the norm |g_i| of the gradient"

    def measure(self, recorder: GhostRecorder, direction: Direction | None) -> Measured:
        return Measured(squares_N=recorder.squared_norms())

    def score(self, losses_N: Tensor, measured: Measured) -> Tensor:
        return measured.norms_N


class MaxLoss(Method):
    """The k highest losses: a forward pass over the candidates, then an ordinary step on the picks."""

    passes, reads = "forward", SCORING
    ranks_by = "the loss before the step"

    def score(self, losses_N: Tensor, measured: Measured) -> Tensor:
        return losses_N
