"""The registry of selection methods: what each needs measured, and how it picks."""

from dataclasses import dataclass

import torch
from torch import Tensor

from selection.direction.exact import Direction
from selection.ghost.recorder import GhostRecorder
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

    @property
    def scores(self) -> Tensor | None:
        """[N], what the candidates were ranked by; None where they were not."""
        return self.self_norm if self.first_order is None else self.first_order


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
        fit_N: Tensor | None = None,
    ) -> Choice:
        """Picks k of the recorded candidates along `direction` (None for a method that takes none).

        step_size, curvature: of greedy_select. sketch: above 0, the gram by random projections (GhostRecorder.gram).
        fit_N: bool [N], which may be picked; by default all. Where fewer than k are fit and have finite scores, those
        are picked.
        """
        if not self.direction:
            norms_N = recorder.squared_norms().sqrt()
            return Choice(_pick(norms_N, None, k, fit_N, step_size=step_size), self_norm=norms_N)
        if not self.gram:
            scores_N = recorder.first_order(direction)
            return Choice(_pick(scores_N, None, k, fit_N, step_size=step_size), scores_N)
        if sketch:
            scores_N, gram_NN = recorder.first_order(direction), recorder.gram(sketch)
        else:
            scores_N, gram_NN = recorder.first_order_and_gram(direction)
        picks = _pick(scores_N, gram_NN, k, fit_N, step_size=step_size, curvature=curvature)
        norms_squared_N = gram_NN.diagonal()
        # Only columns of picks: a candidate that is not finite must not reach the others by 0 * nan.
        interaction_N = gram_NN[:, picks].sum(1).index_add_(0, picks, -norms_squared_N[picks])
        return Choice(picks, scores_N, interaction_N, norms_squared_N.sqrt())


def _pick(scores_N: Tensor, gram_NN: Tensor | None, k: int, fit_N: Tensor | None, **settings) -> Tensor:
    """greedy_select of as many of the fit candidates as there are, at most k; positions [<= k]."""
    if fit_N is not None:
        scores_N = scores_N.masked_fill(~fit_N, torch.nan)
    usable_N = torch.isfinite(scores_N)
    if gram_NN is not None:
        usable_N &= torch.isfinite(gram_NN.diagonal())
    k = min(k, int(usable_N.sum()))
    if k == 0:
        return torch.empty(0, dtype=torch.long, device=scores_N.device)
    return greedy_select(scores_N, gram_NN, k, **settings)[0]


METHODS = {
    "regular": Method(scores=False),
    "greats": Method(scores=True, gram=True),
    "topk": Method(scores=True),
    "gradnorm": Method(scores=True, direction=False),
}
