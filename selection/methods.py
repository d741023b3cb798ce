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
    """scores: whether candidates are recorded and scored; otherwise all that are drawn are trained on.

    gram: whether their interactions are measured; direction: whether scores need a validation direction.
    """

    scores: bool
    gram: bool = False
    direction: bool = True

    def choose(
        self,
        recorder: GhostRecorder,
        direction: Direction | None,
        k: int,
        *,
        step_size: float,
        curvature: float = 1.0,
        sketch: int = 0,
    ) -> Choice:
        """Picks k of the recorded candidates along `direction` (None for a method that takes none).

        step_size, curvature: of greedy_select. sketch: above 0, the gram by random projections (GhostRecorder.gram).
        """
        if not self.direction:
            norms_N = recorder.squared_norms().sqrt()
            return Choice(greedy_select(norms_N, None, k, step_size=step_size)[0], self_norm=norms_N)
        if not self.gram:
            scores_N = recorder.first_order(direction)
            return Choice(greedy_select(scores_N, None, k, step_size=step_size)[0], scores_N)
        if sketch:
            scores_N, gram_NN = recorder.first_order(direction), recorder.gram(sketch)
        else:
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
    "gradnorm": Method(scores=True, direction=False),
}
