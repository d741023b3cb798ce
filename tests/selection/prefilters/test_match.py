"""Picks lower the divergence most; they complement each other; what was picked is known to every rank, a step later."""

import numpy as np
import pytest
import torch

from selection.prefilters.match import HORIZON, Matching
from selection.prefilters.ngrams import BUCKETS, count_ngrams, ngram_features
from tests.helpers.ranks import Travels, on_ranks
from tests.helpers.selecting import topic

TARGET = np.concatenate([topic(1, 40, range(20, 60)), topic(2, 20, range(60, 100))])
TARGET = TARGET[np.random.default_rng(9).permutation(60)]  # halves of it are alike
POOL = np.concatenate([topic(3, 30, range(100, 200)), topic(4, 30, range(20, 100))])
FRESH = topic(5, 30, range(100, 200))


def matching(target=TARGET, pool=POOL, **changes) -> Matching:
    return Matching(*map(ngram_features, (target, pool, FRESH)), **({"picks": 4} | changes))


def candidates(seed: int) -> np.ndarray:
    """Features [9, F]: three of each wanted kind, three unwanted."""
    kinds = (range(100, 200), range(20, 60), range(60, 100))
    return ngram_features(np.concatenate([topic(10 * seed + i, 3, kind) for i, kind in enumerate(kinds)]))


def divergence(trained_B: np.ndarray, target_B: np.ndarray) -> float:
    return float((trained_B * np.log(trained_B / target_B)).sum())


def test_every_pick_lowers_the_divergence_of_what_is_trained_on_from_the_target_most():
    ours, features_nF = matching(), candidates(1)
    target_B, trained_B = (
        (count_ngrams(ngram_features(tokens)) + 0.5) / (count_ngrams(ngram_features(tokens)) + 0.5).sum()
        for tokens in (TARGET, POOL)
    )
    step, left = 1 / (4 * HORIZON), list(range(9))
    for pick in ours.rank(features_nF[None]).shortlist(0, 4):
        shares_nB = np.stack([count_ngrams(features_F) for features_F in features_nF]) / features_nF.shape[1]
        # A far smaller part of the way than a pick goes: the rule is the first order.
        after = {n: divergence(trained_B + 1e-3 * step * (shares_nB[n] - trained_B), target_B) for n in left}
        assert pick == min(after, key=after.get)
        trained_B = trained_B + step * (shares_nB[pick] - trained_B)
        left.remove(pick)


def test_what_was_picked_counts_less_later_and_both_wanted_kinds_are_kept():
    ours = matching(target=np.tile(TARGET, (100, 1)))  # so that what it lacks is rare by its count
    of_kind = np.zeros(3)
    for step in range(2 * HORIZON):
        features_nF = candidates(step)
        picks = ours.rank(features_nF[None]).shortlist(0, 4)
        of_kind += np.bincount(picks // 3, minlength=3)
        ours.send(features_nF[picks][None])
        ours.catch_up()
    # Two thirds of the target text are of the first wanted kind. Of each three are drawn, for four picks.
    assert of_kind / of_kind.sum() == pytest.approx([0, 2 / 3, 1 / 3], abs=0.05)


def test_what_is_sent_is_used_after_catching_up_and_a_restored_one_goes_on_alike():
    saved, restored = matching(), matching()
    first, second = candidates(1), candidates(2)
    before = saved.rank(second[None]).predicted_gn
    saved.send(first[None, :4])
    saved.settle()
    assert (saved.rank(second[None]).predicted_gn == before).all()
    restored.load_state_dict(saved.state_dict())
    assert (restored.rank(second[None]).predicted_gn == before).all()
    for ours in (saved, restored):
        ours.catch_up()
    assert (saved.rank(second[None]).predicted_gn != before).any()
    assert (restored.rank(second[None]).predicted_gn == saved.rank(second[None]).predicted_gn).all()
    # Of the target samples and fresh ones of the pool, which are of other text altogether, the wanted half of what the
    # pool began with aside.
    assert saved.findings() == {"prefilter_separation": saved.separation}


def test_where_n_grams_do_not_tell_target_text_from_the_pool_the_first_drawn_are_taken():
    assert matching().trusted
    same = Matching(*[ngram_features(topic(seed, 60, range(100, 200))) for seed in (1, 2, 3)], picks=4)
    assert not same.trusted
    assert same.rank(candidates(1)[None]).shortlist(0, 4).tolist() == [0, 1, 2, 3]
    before = same.state_dict()["known"]
    same.send(candidates(1)[None, :4])
    same.catch_up()
    assert torch.equal(same.state_dict()["known"], before)  # nothing was counted, and so nothing sent


def _three_steps(world, groups):
    ours = matching()
    with Travels() as sent:
        for step in range(3):
            features_gkF = np.stack([candidates(groups * step + group)[:4] for group in range(groups)])
            ours.send(features_gkF[world.rank :: world.size])
            ours.catch_up()
    return ours.state_dict(), sent.made


def test_every_rank_counts_the_same_at_any_number_of_ranks_in_one_collective_a_step():
    ((alone, _),), several = on_ranks(1, _three_steps, 4), on_ranks(2, _three_steps, 4)
    for state, sent in several:
        assert sent == [("allreduce_", BUCKETS * 8)] * 3
        for name, tensor in alone.items():
            assert torch.equal(tensor, state[name]), name
