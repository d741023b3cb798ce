"""Greedy selection on the second-order Taylor approximation of the validation loss."""

import torch
from torch import Tensor


def greedy_select(
    scores_N: Tensor, gram_NN: Tensor | None, k: int, *, step_size: float, curvature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Picks k of N candidates one by one, each the one of highest gain given those before it.

    The utility of a set S is a sum_S <g_i, v> - (a^2 c / 2) sum_SS <g_i, g_j>, with a = eta / k and the Hessian
    read as c times the identity (Wang et al., "GREATS", NeurIPS 2024, section 4.1, without its self term).
    Picking j lowers every other gain_i by a^2 c <g_i, g_j>. Ties go to the lower position; a candidate whose score
    is not finite is never picked.

    scores_N: <g_i, v>. gram_NN: <g_i, g_j>, or None for no interaction (top-k). step_size: a.
    Returns (picks [k] int64 in the order of being picked, their gains [k] at that moment, in units of loss).
    ValueError if fewer than k candidates have a finite score.
    """
    usable_N = torch.isfinite(scores_N)
    if gram_NN is not None:
        usable_N &= torch.isfinite(gram_NN.diagonal())
    if k > int(usable_N.sum()):
        raise ValueError(f"cannot pick {k} of {len(scores_N)} candidates: {int(usable_N.sum())} have finite scores")
    gains_N = torch.where(usable_N, step_size * scores_N, -torch.inf)
    picks, gains = [], []
    for _ in range(k):
        pick = gains_N.argmax()
        picks.append(pick)
        gains.append(gains_N[pick])
        if gram_NN is not None:
            interaction_N = step_size**2 * curvature * gram_NN[pick]
            gains_N = torch.where(usable_N, gains_N - interaction_N, -torch.inf)
        gains_N = gains_N.index_fill(0, pick, -torch.inf)
    return torch.stack(picks), torch.stack(gains)
