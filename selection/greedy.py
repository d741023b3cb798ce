"""Greedy selection on the second-order Taylor approximation of the validation loss; the best scores of a step."""

import torch
import torch.distributed as dist
from torch import Tensor


def greedy_select(
    scores_N: Tensor, gram_NN: Tensor | None, k: int, *, step_size: float, curvature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Picks k of N candidates one by one, each the one of highest gain given those before it.

    The utility of a set S is a sum_S <g_i, v> - (a^2 c / 2) sum_SS <g_i, g_j>, with a = eta / k and the Hessian
    read as c times the identity (Wang et al., "GREATS", NeurIPS 2024, section 4.1, without its self term).
    Picking j lowers every other gain_i by a^2 c <g_i, g_j>. Ties go to the lower position; a candidate whose score
    is not finite is never picked. All on the device: the host need not know what was picked.

    scores_N: <g_i, v>. gram_NN: <g_i, g_j>, or None for no interaction (top-k). step_size: a.
    Returns (picks [k] int64 in the order of being picked, their gains [k] at that moment, in units of loss). Where
    fewer than k candidates have a finite score the last picks are -1, and their gains -inf. ValueError where k > N.
    """
    if k > len(scores_N):
        raise ValueError(f"cannot pick {k} of {len(scores_N)} candidates")
    usable_N = torch.isfinite(scores_N)
    if gram_NN is None:
        gains_N, order_N = torch.where(usable_N, step_size * scores_N, -torch.inf).sort(descending=True, stable=True)
        picks_k, gains_k = order_N[:k], gains_N[:k]
    else:
        usable_N &= torch.isfinite(gram_NN.diagonal())
        gains_N = torch.where(usable_N, step_size * scores_N, -torch.inf)
        picks, gains = [], []
        for _ in range(k):
            gain_1, pick_1 = gains_N.max(dim=0, keepdim=True)
            picks.append(pick_1)
            gains.append(gain_1)
            interaction_N = step_size**2 * curvature * gram_NN.index_select(0, pick_1)[0]
            gains_N = torch.where(gains_N > -torch.inf, gains_N - interaction_N, -torch.inf)
            gains_N = gains_N.index_fill(0, pick_1, -torch.inf)
        picks_k, gains_k = torch.cat(picks), torch.cat(gains)
    return picks_k.masked_fill(gains_k == -torch.inf, -1), gains_k


def best_of_step(scores_gN: Tensor, k: int) -> list[tuple[Tensor, Tensor]]:
    """The k highest scores of all groups of all ranks: for each of this rank's, (picks, their places among the k).

    Both [<= N] int64, in the order of being picked. Groups are dealt to the ranks in turn. Ties go to the lower group,
    then to the lower position. A score that is not finite is never picked: where too few are, there are fewer picks.
    All ranks call it. The host waits for the number of picks.
    """
    ranks, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    g, N = scores_gN.shape
    scores_WgN = scores_gN[None]
    if ranks > 1:
        scores_WgN = scores_gN.new_empty(ranks, g, N)
        dist.all_gather_single(scores_WgN.view(-1), scores_gN.reshape(-1))
    scores_C = scores_WgN.transpose(0, 1).reshape(-1)  # of group after group
    usable_C = torch.isfinite(scores_C)
    best_k = torch.where(usable_C, scores_C, -torch.inf).argsort(descending=True, stable=True)[:k]
    best_k = best_k[usable_C[best_k]]
    found = []
    for group in range(rank, ranks * g, ranks):
        (places,) = (best_k // N == group).nonzero(as_tuple=True)
        found.append((best_k[places] % N, places))
    return found
