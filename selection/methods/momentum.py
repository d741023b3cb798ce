"""The optimizer's own direction: what the step goes on with, without a target sample."""

import torch
from torch import nn

from ..direction import Direction, adam_momentum
from .first_order import TopK
from .method import RECORDING


class Momentum(TopK):
    """The k whose gradients point most along AdamW's first moment, the running mean of the gradients of past picks.

    A control: it says how much of a score is only "like what was trained on lately". At the first step of a run there
    is no moment, all scores are 0, and the first k candidates are taken, a plain draw.
    """

    aims, reads = False, RECORDING | {"pool"}
    ranks_by = "the inner product of its gradient and AdamW's first moment"

    def steer(
        self, direction: Direction | None, optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter]
    ) -> Direction:
        return adam_momentum(optimizer, parameters)
