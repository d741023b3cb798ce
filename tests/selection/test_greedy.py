import itertools

import pytest
import torch

from selection.greedy import best_of_step, greedy_select
from tests.helpers.ranks import on_ranks


def utility(chosen, scores_N, gram_NN, a, c):
    """a sum <g_i, v> - (a^2 c / 2) sum over pairs i != j of <g_i, g_j>: what the greedy rule climbs."""
    index = torch.tensor(chosen, dtype=torch.long)
    block = gram_NN[index][:, index]
    pairs = block.sum() - block.diagonal().sum()
    return a * scores_N[index].sum() - a**2 * c / 2 * pairs


def random_problem(n: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    gradients = torch.randn(n, 5, generator=generator, dtype=torch.float64)
    return gradients @ torch.randn(5, generator=generator, dtype=torch.float64), gradients @ gradients.T


def test_every_pick_is_the_best_next_one_and_gains_add_up_to_the_utility():
    for seed in range(20):
        scores_N, gram_NN = random_problem(7, seed)
        picks, gains = greedy_select(scores_N, gram_NN, 4, step_size=0.5, curvature=1.3)
        chosen = []
        for pick, gain in zip(picks.tolist(), gains, strict=True):
            before = utility(chosen, scores_N, gram_NN, 0.5, 1.3)
            rises = {
                i: (utility([*chosen, i], scores_N, gram_NN, 0.5, 1.3) - before).item()
                for i in set(range(7)) - set(chosen)
            }
            assert pick == max(rises, key=rises.get)
            assert gain.item() == pytest.approx(rises[pick])
            chosen.append(pick)
        assert gains.sum().item() == pytest.approx(utility(chosen, scores_N, gram_NN, 0.5, 1.3).item())


def test_without_interaction_it_is_top_k():
    scores_N, gram_NN = random_problem(9, seed=1)
    best = scores_N.topk(4).indices.tolist()
    assert greedy_select(scores_N, None, 4, step_size=0.1)[0].tolist() == best
    assert greedy_select(scores_N, gram_NN, 4, step_size=0.1, curvature=0.0)[0].tolist() == best


def test_twins_are_not_both_picked_when_curvature_is_high():
    """Two copies of the best candidate: the interaction makes the second copy worth less than a stranger."""
    gradients = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.9]])
    direction = torch.tensor([1.0, 1.0])
    scores_N, gram_NN = gradients @ direction, gradients @ gradients.T
    assert greedy_select(scores_N, None, 2, step_size=1.0)[0].tolist() == [0, 1]
    assert greedy_select(scores_N, gram_NN, 2, step_size=1.0, curvature=0.5)[0].tolist() == [0, 2]
    # A negative gain is taken all the same: k picks are k picks.
    assert sorted(greedy_select(-scores_N, gram_NN, 3, step_size=1.0)[0].tolist()) == [0, 1, 2]


def test_ties_go_to_the_lower_position():
    assert greedy_select(torch.ones(5), None, 3, step_size=1.0)[0].tolist() == [0, 1, 2]


def test_candidates_that_are_not_finite_are_never_picked():
    scores_N = torch.tensor([3.0, float("nan"), float("inf"), 1.0, 2.0])
    gram_NN = torch.eye(5)
    gram_NN[4, 4] = float("nan")
    assert greedy_select(scores_N, None, 3, step_size=1.0)[0].tolist() == [0, 4, 3]
    for k in range(1, 3):
        assert greedy_select(scores_N, gram_NN, k, step_size=1.0)[0].tolist() == [0, 3][:k]
    picks, gains = greedy_select(scores_N, gram_NN, 3, step_size=1.0)
    assert (picks.tolist(), gains.tolist()) == ([0, 3, -1], [3.0, 1.0, -torch.inf])
    assert greedy_select(scores_N, None, 4, step_size=1.0)[0].tolist() == [0, 4, 3, -1]
    with pytest.raises(ValueError, match="cannot pick 6 of 5 candidates"):
        greedy_select(scores_N, gram_NN, 6, step_size=1.0)


def test_greedy_is_close_to_the_best_set():
    """For mild curvature greedy reaches at least 95 % of the best utility over all sets."""
    for seed in range(10):
        scores_N, gram_NN = random_problem(8, seed)
        picks, _ = greedy_select(scores_N, gram_NN, 3, step_size=0.05)
        best = max(utility(list(s), scores_N, gram_NN, 0.05, 1.0) for s in itertools.combinations(range(8), 3))
        assert utility(picks.tolist(), scores_N, gram_NN, 0.05, 1.0) >= 0.95 * best


SCORES_GN = torch.tensor([[1.0, 5.0, 5.0], [torch.nan, 5.0, 0.0], [-1.0, torch.inf, 4.0], [4.0, -2.0, 3.0]])


def _best_on(world, k):
    return best_of_step(SCORES_GN[world.rank :: world.size], k)


@pytest.mark.parametrize(
    ("k", "expected"),
    [
        (5, [[1, 2], [1], [2], [0]]),  # equal scores in the order of groups and positions
        (12, [[1, 2, 0], [1, 2], [2, 0], [0, 2, 1]]),  # all that are finite
    ],
)
def test_the_best_of_a_step_are_the_same_on_however_many_ranks(k, expected):
    finite = [(float(-SCORES_GN[g, i]), g, i) for g in range(4) for i in range(3) if SCORES_GN[g, i].isfinite()]
    order = [pair for _, *pair in sorted(finite)[:k]]
    for size in (1, 2, 4):
        ranks = on_ranks(size, _best_on, k)
        for group in range(4):
            picks, places = ranks[group % size][group // size]
            assert picks.tolist() == expected[group]
            assert [order[place] for place in places.tolist()] == [[group, pick] for pick in picks.tolist()]
