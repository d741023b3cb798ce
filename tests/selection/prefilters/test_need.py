"""Clusters that are there are found; shares go where losses fall; turns keep them; the state is all there is."""

import math

import numpy as np
import pytest
import torch

from selection.prefilters.need import FLOOR, LEAST, RATE, WORN, SharedFilters, SharedRanking, moved, taken, turns
from selection.prefilters.ngrams import PRINTS, cluster, ngram_features
from tests.helpers.ranks import Travels, on_ranks
from tests.helpers.selecting import topic

TARGET = np.concatenate([topic(1, 40, range(20, 60)), topic(2, 20, range(60, 100))])
POOL = np.concatenate([topic(3, 30, range(100, 200)), topic(4, 30, range(20, 100))])


def test_clusters_are_the_topics_largest_first():
    found = cluster(ngram_features(TARGET), 2)
    assert found.tolist() == [0] * 40 + [1] * 20
    shuffled = np.random.default_rng(0).permutation(60)
    assert (cluster(ngram_features(TARGET[shuffled]), 2) == found[shuffled]).all()


def test_one_cluster_and_few_samples_are_all_one():
    assert cluster(ngram_features(TARGET), 1).tolist() == [0] * 60
    assert cluster(ngram_features(TARGET[:3]), 2).tolist() == [0] * 3


def test_samples_that_are_all_alike_are_clustered_too():
    assert set(cluster(ngram_features(np.repeat(TARGET[:1], 12, axis=0)), 4)) == {0}


MIXED = TARGET[np.random.default_rng(9).permutation(60)]


def need(**changes) -> SharedFilters:
    parts = {"clusters": 2, "samples": 8, "every": 1, "memory": 3, "picks": 4} | changes
    return SharedFilters(
        ngram_features(MIXED), ngram_features(POOL), ngram_features(topic(5, 30, range(100, 200))), **parts
    )


def test_shares_begin_as_the_targets_mix_and_samples_of_every_cluster_are_watched():
    ours = need()
    assert ours.shares_C == pytest.approx([2 / 3, 1 / 3])
    assert cluster(ngram_features(MIXED), 2)[ours.watched].tolist() == [0] * 4 + [1] * 4
    assert len(set(ours.watched.tolist())) == 8
    assert ours.trusted


def test_a_cluster_picks_by_its_own_text():
    ours = need()
    kinds = [topic(6, 9, range(100, 200)), topic(7, 9, range(20, 60)), topic(8, 9, range(60, 100))]
    candidates = np.concatenate(kinds)
    ranking = ours.rank(ngram_features(candidates)[None], step=0, lanes=[0])
    assert set(ranking.predicted_gCn[0, 0].argsort()[-9:]) == set(range(9, 18))
    assert set(ranking.predicted_gCn[0, 1].argsort()[-9:]) == set(range(18, 27))
    picks = ranking.shortlist(0, 4)
    assert len(set(picks.tolist())) == 4
    assert [pick >= 18 for pick in picks] == [turn == 1 for turn in turns(ours.shares_C, 4, 0)]


def capped(margins: np.ndarray) -> np.ndarray:
    """A worth that is 1 where a margin is not below 0, and falls with it below."""
    return 1 + np.minimum(margins, 0)


def test_turns_by_hand():
    """Each takes the first candidate of its own; where nobody has one, the best of whoever is least short of it."""
    predicted = np.array([[0.0, 3.0, 2.0, 4.0, 2.5], [2.0, 0.0, 0.0, 0.0, 2.8]])
    margins = predicted - np.array([[2.5], [1.5]])
    for whose, positions in (
        ([0, 1, 1, 0, 0], [1, 0, 4, 3, 2]),
        ([1, 0], [0, 1]),
        ([0, 0, 1], [1, 3, 0]),
        ([], []),
    ):
        assert taken(margins, capped(margins), np.array(whose, dtype=int)).tolist() == positions


def test_of_its_own_a_turn_takes_what_is_worth_most():
    margins = np.array([[0.5, 0.2, -0.1, 0.0]])
    assert taken(margins, np.array([[0.25, 0.5, 0.8, 0.5]]), np.zeros(4, dtype=int)).tolist() == [2, 1, 3, 0]


def test_a_shortlist_by_hand():
    """Turns are of as many as are not drawn at random, so that the last cluster has its share of these too."""
    predicted = np.array([[[0.0, 3.0, 2.0, 4.0, 2.5, 5.0], [2.0, 0.0, 0.0, 0.0, 2.8, 0.0]]])
    least, shares = np.array([2.5, 1.5]), np.array([0.5, 0.5])
    worth = capped(predicted - least[:, None])
    ranking = SharedRanking(predicted, least, worth, shares, [0.0], trusted=True)
    assert ranking.predicted_gn.tolist() == [[2.0, 3.0, 2.0, 4.0, 2.8, 5.0]]
    assert ranking.shortlist(0, 2).tolist() == [1, 0]
    assert ranking.shortlist(0, 4).tolist() == [1, 3, 0, 4]
    assert ranking.shortlist(0, 4, explore=0.5).tolist() == [1, 0, 2, 3]
    assert ranking.shortlist(0, 4, explore=1.0).tolist() == [0, 1, 2, 3]
    # After 1, 3 and 4, with 5 out of reach, the first cluster has nothing of its own left, and the second has 0.
    alone = SharedRanking(predicted, least, worth, np.array([1.0, 0.0]), [0.0], trusted=True)
    assert alone.shortlist(0, 4).tolist() == [1, 3, 4, 5]
    assert alone.shortlist(0, 4, among=5).tolist() == [1, 3, 4, 0]
    assert alone.shortlist(0, 5, explore=0.4, among=5).tolist() == [1, 3, 4, 0, 2]
    unknown = SharedRanking(predicted, least, worth, shares, [0.0], trusted=False)
    assert unknown.shortlist(0, 3, explore=0.5).tolist() == [0, 1, 2]


def test_a_cluster_that_finds_nothing_of_its_own_gives_its_turn_away():
    """After its first pick, cluster 0 has nothing left above 2.5; of the other two, cluster 2 has the wider margin."""
    predicted = np.array([[3.0, 2.0, 0.0, 0.0, 0.0], [0.0, 0.0, 4.0, 3.8, 0.0], [0.0, 2.4, 0.0, 0.0, 2.0]])
    margins = predicted - np.array([[2.5], [3.0], [1.0]])
    assert taken(margins, capped(margins), np.zeros(4, dtype=int)).tolist() == [0, 1, 2, 4]
    # When no cluster has anything of its own, the one that is least short of it takes its best.
    assert taken(margins - 3, capped(margins - 3), np.zeros(1, dtype=int)).tolist() == [1]


def test_half_of_a_clusters_own_text_and_little_else_is_above_its_least():
    ours = need()
    fresh = [topic(11, 400, range(20, 60)), topic(12, 400, range(60, 100))]
    for cluster_, tokens in enumerate(fresh):
        ranking = ours.rank(ngram_features(tokens)[None], step=0, lanes=[0])
        above = (ranking.predicted_gCn[0] > ours.least_C[:, None]).mean(1)
        assert above[cluster_] > 0.5
        assert above[1 - cluster_] < 0.1


def test_turns_keep_the_shares_over_many_groups():
    shares = np.array([0.55, 0.33, 0.12])
    counts = [np.bincount(turns(shares, 8, step * 0.7548776662466927 + 0.3), minlength=3) for step in range(1000)]
    assert np.mean(counts, axis=0) / 8 == pytest.approx(shares, abs=2e-3)
    assert (np.abs(np.array(counts) - 8 * shares) <= 1).all()


def test_shares_move_by_returns():
    sizes, shares = np.array([0.5, 0.5]), np.array([0.4, 0.6])
    falls = np.array([[0.2, 0.2], [0.1, 0.1]])  # without error: nothing is drawn together
    wanted = np.array([0.5 * 0.2 / 0.4, 0.5 * 0.1 / 0.6])
    expected = shares + RATE * (wanted / wanted.sum() - shares)
    assert moved(shares, sizes, falls) == pytest.approx(expected)


def test_falls_that_their_errors_explain_count_as_equal():
    sizes, shares = np.array([0.5, 0.5]), np.array([0.4, 0.6])
    noisy = np.array([[1.0, -0.6], [0.9, -0.7]])
    wanted = np.array([1 / 0.4, 1 / 0.6])
    assert moved(shares, sizes, noisy) == pytest.approx(shares + RATE * (wanted / wanted.sum() - shares))


def test_shares_settle_where_returns_are_equal_and_keep_the_floor():
    sizes = np.array([0.5, 0.3, 0.2])
    falls = np.array([[0.4, 0.4], [0.1, 0.1], [0.0, 0.0]])
    shares = sizes
    for _ in range(200):
        shares = moved(shares, sizes, falls)
    assert shares[2] == pytest.approx(FLOOR * 0.2, rel=0.1)
    assert shares[0] / shares[1] == pytest.approx((0.5 * 0.4 / (0.3 * 0.1)) ** 0.5, rel=0.05)


@pytest.mark.parametrize("falls", [np.full((2, 2), -0.1), np.full((2, 2), np.nan)])
def test_nothing_that_falls_moves_nothing(falls):
    shares = np.array([0.4, 0.6])
    assert moved(shares, np.array([0.5, 0.5]), falls).tolist() == [0.4, 0.6]


def test_one_cluster_has_it_all():
    ours = need(clusters=1)
    for loss in (5.0, 4.0, 3.5):
        ours.hear(0, np.full(8, loss))
    assert ours.shares_C.tolist() == [1.0]


def test_worth_is_by_its_own_text_and_by_how_often_it_was_picked():
    ours = need()
    own, other = topic(11, 6, range(20, 60)), topic(12, 6, range(100, 200))
    features_nF = ngram_features(np.concatenate([own, other]))
    ranking = ours.rank(features_nF[None], step=0, lanes=[0])
    said_n, worth_n = ranking.predicted_gCn[0, 0], ranking.worth_gCn[0, 0]
    least, lowest = ours.least_C[0], ours._own_C[0].min()
    assert (worth_n[said_n >= least] == 1).all()
    assert worth_n[6:] == pytest.approx(said_n[6:] - lowest)
    assert (worth_n[6:] < 0).all()
    partly = (said_n < least) & (said_n > lowest)
    shares = [(ours._own_C[0] <= said).mean() for said in said_n[partly]]
    assert worth_n[partly] == pytest.approx(np.array(shares) / LEAST)
    for _ in range(3):
        ours.send(features_nF[:4][None])
        ours.catch_up()
    again = ours.rank(features_nF[None], step=0, lanes=[0])
    assert (again.predicted_gCn == ranking.predicted_gCn).all()
    assert again.worth_gCn[0, 0] == pytest.approx(worth_n * [*[math.exp(-3 / WORN)] * 4, *[1] * 8])
    ours.send(features_nF[8:][None])
    ours.catch_up()
    assert ours.rank(features_nF[None], 0, [0]).worth_gCn[0, 0, 8:] == pytest.approx(worth_n[8:] - 1 / WORN)


def test_text_that_was_picked_makes_way_for_text_that_was_not():
    """Half of eight that look like its own text fill one step; the next step takes the other half."""
    ours = need(clusters=1)
    features_nF = ngram_features(topic(11, 40, range(20, 60)))
    worth_n = ours.rank(features_nF[None], 0, lanes=[0]).worth_gCn[0, 0]
    features_nF = features_nF[worth_n == 1][:8]
    picked = []
    for step in range(4):
        picked.append(set(ours.rank(features_nF[None], step, lanes=[0]).shortlist(0, 4).tolist()))
        ours.send(features_nF[sorted(picked[-1])][None])
        ours.catch_up()
        assert ours.findings()["picked_before"] == step // 2
        ours.catch_up()
        assert ours.findings()["picked_before"] is None  # nothing came since
    assert picked[0] | picked[1] == picked[2] | picked[3] == set(range(8))


def test_what_is_sent_counts_after_catching_up_and_a_restored_one_goes_on_alike():
    saved, restored = need(), need()
    features_nF = ngram_features(topic(11, 4, range(20, 60)))
    before = saved.rank(features_nF[None], 1, [0]).worth_gCn
    saved.send(features_nF[None])
    saved.settle()
    restored.load_state_dict(saved.state_dict())
    for ours in (saved, restored):
        assert (ours.rank(features_nF[None], 1, [0]).worth_gCn == before).all()
        ours.catch_up()
    after = saved.rank(features_nF[None], 1, [0]).worth_gCn
    assert saved.findings() == restored.findings()
    assert saved.findings()["picked_before"] == 0
    assert (after < before).any()
    assert (restored.rank(features_nF[None], 1, [0]).worth_gCn == after).all()
    # And nothing is counted twice.
    again = need()
    again.load_state_dict(restored.state_dict())
    for ours in (restored, again):
        ours.catch_up()
        assert (ours.rank(features_nF[None], 1, [0]).worth_gCn == after).all()


def _three_steps(world, groups):
    ours = need(picks=4 * groups)
    with Travels() as sent:
        for step in range(3):
            texts = [topic(50 + groups * step + group, 4, range(20, 60)) for group in range(groups)]
            ours.send(np.stack(list(map(ngram_features, texts)))[world.rank :: world.size])
            ours.catch_up()
    return ours.state_dict(), sent.made


def test_every_rank_counts_the_same_at_any_number_of_ranks_in_one_collective_a_step():
    ((alone, _),), several = on_ranks(1, _three_steps, 4), on_ranks(2, _three_steps, 4)
    assert alone["repeats"].any()
    for state, sent in several:
        assert sent == [("allgather_", 2 * 4 * PRINTS * 4)] * 3  # of a rank's eight picks
        for name, tensor in alone.items():
            assert torch.equal(tensor, state[name]), name


def test_where_filters_are_not_trusted_nothing_is_counted():
    text = [ngram_features(topic(seed, 60, range(100, 200))) for seed in (1, 2, 3)]
    ours = SharedFilters(*text, clusters=2, samples=8, every=1, memory=3, picks=4)
    assert not ours.trusted
    ours.send(text[0][:4][None])
    ours.catch_up()
    assert not ours.state_dict()["repeats"].any()


def test_a_restored_one_goes_on_as_the_saved_one():
    losses = np.random.default_rng(0).normal(4, 0.1, (6, 8)) - np.arange(6)[:, None] * 0.1
    saved, restored = need(), need()
    for measured in losses[:4]:
        saved.hear(0, measured)
    restored.load_state_dict(saved.state_dict())
    for measured in losses[4:]:
        saved.hear(0, measured)
        restored.hear(0, measured)
    assert saved.findings() == restored.findings()
    assert saved.shares_C.tolist() != [2 / 3, 1 / 3]
