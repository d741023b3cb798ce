"""The registry of selection methods: what each needs measured, and how it picks."""

from dataclasses import dataclass

import torch
from torch import Tensor

from selection.direction import Direction
from selection.ghost import GhostRecorder
from selection.greedy import greedy_select


@dataclass
class Choice:
    """What became of one group of N candidates; a quantity that was not measured is None.

    picks [k] in the order of being picked; first_order <g_i, v>, interaction (sum of <g_i, g_j> over the picks
    j other than i) and self_norm |g_i|, all [N].
    """

    picks: Tensor
    first_order: Tensor | None = None
    interaction: Tensor | None = None
    self_norm: Tensor | None = None


@dataclass(frozen=True)
class Method:
    """scores: whether candidates are recorded and scored; otherwise all that are drawn are trained on."""

    scores: bool
    gram: bool = False

    def choose(
        self, recorder: GhostRecorder, direction: Direction, k: int, step_size: float, curvature: float
    ) -> Choice:
        """Picks k of the recorded candidates along `direction`; see greedy_select for the other arguments."""
        if not self.gram:
            scores_N = recorder.first_order(direction)
            return Choice(greedy_select(scores_N, None, k, step_size=step_size)[0], scores_N)
        scores_N, gram_NN = recorder.first_order_and_gram(direction)
        picks, _ = greedy_select(scores_N, gram_NN, k, step_size=step_size, curvature=curvature)
        norms_squared_N = gram_NN.diagonal()
        picked_N = torch.zeros_like(scores_N).index_fill_(0, picks, 1.0)
        interaction_N = gram_NN @ picked_N - norms_squared_N * picked_N
        return Choice(picks, scores_N, interaction_N, norms_squared_N.sqrt())


METHODS = {
    "regular": Method(scores=False),
    "greats": Method(scores=True, gram=True),
    "topk": Method(scores=True),
}
