"""Shortlists by hand, when what is learnt comes to be used, and the same state on every rank."""

import numpy as np
import pytest
import torch

from selection.log.arriving import Arriving
from selection.prefilters.cascade import Prefilter, Ranking
from selection.prefilters.importance import ImportanceWeights
from selection.prefilters.ngrams import BUCKETS, ngram_features
from selection.prefilters.predictor import Predictor
from tests.helpers.ranks import Travels, on_ranks

PREDICTED = np.array([[0.1, 0.9, -0.5, 0.9, 0.3, 0.0]], dtype=np.float32)


@pytest.mark.parametrize(
    ("size", "explore", "expected"),
    [
        (4, 0.0, [1, 3, 4, 0]),  # equal predictions in the order of drawing
        (4, 0.5, [1, 3, 0, 2]),  # two of the best, then the first that were drawn of the others
        (4, 1.0, [0, 1, 2, 3]),
        (3, 0.25, [1, 3, 0]),  # the share is rounded
        (6, 0.25, [1, 3, 4, 0, 2, 5]),
    ],
)
def test_shortlists(size, explore, expected):
    assert Ranking(PREDICTED, trusted=True).shortlist(0, size, explore).tolist() == expected
    assert Ranking(PREDICTED, trusted=False).shortlist(0, size, explore).tolist() == list(range(size))


def samples(seed, shape, high=40):
    tokens = np.random.default_rng(seed).integers(0, high, (np.prod(shape), 17))
    return ngram_features(tokens).reshape(*shape, -1)


def arriving(scores_gN):
    return Arriving(torch.from_numpy(scores_gN))


def drawn_scores(seed):
    return arriving(np.random.default_rng(seed).random((2, 5)))


def prefilter(kind=Predictor):
    return Prefilter(kind(samples(1, (30,), high=20), samples(2, (30,)), samples(3, (30,))))


def test_what_is_sent_is_learnt_at_once_and_used_after_catching_up():
    ours, features_gNF = prefilter(), samples(4, (2, 5))
    scores_gN = np.random.default_rng(5).standard_normal((2, 5))
    before = ours.rank(features_gNF)
    assert before.trusted
    ours.send(features_gNF, before.predicted_gn, arriving(scores_gN))
    ours.settle()
    assert (ours.rank(features_gNF).predicted_gn == before.predicted_gn).all()
    within = [np.corrcoef(p, s)[0, 1] for p, s in zip(before.predicted_gn, scores_gN, strict=True)]
    assert ours.judge.correlation == pytest.approx(np.mean(within))
    ours.catch_up()
    after = ours.rank(features_gNF).predicted_gn
    expected = Predictor(samples(1, (30,), high=20), samples(2, (30,)), samples(3, (30,)))
    expected.learn(expected.lesson(features_gNF, scores_gN))
    expected.refresh()
    assert (after == [expected.predict(features_NF) for features_NF in features_gNF]).all()
    assert (after != before.predicted_gn).all()


def test_scores_of_a_device_at_work_leave_when_they_are_to_be_learnt():
    """And no later than for a checkpoint."""
    at_once, late, features_gNF = prefilter(), prefilter(), samples(4, (2, 5))
    for ours in (at_once, late):
        scores = drawn_scores(5)
        if ours is late:
            scores._complete = Waiting()
        ours.send(features_gNF, ours.rank(features_gNF).predicted_gn, scores)
    assert late._sent is None
    assert not scores._complete.waited
    late.settle()
    at_once.settle()
    assert scores._complete.waited
    assert all(torch.equal(tensor, late.state_dict()[name]) for name, tensor in at_once.state_dict().items())


class Waiting:
    """An event of a device."""

    waited = False

    def synchronize(self):
        self.waited = True


def test_a_restored_prefilter_goes_on_as_the_saved_one():
    """Saved between sending and catching up, which is where a checkpoint falls."""
    saved, restored = prefilter(), prefilter()
    for seed in range(10):
        features_gNF = samples(seed, (2, 5))
        saved.send(features_gNF, saved.rank(features_gNF).predicted_gn, drawn_scores(seed))
        saved.settle()
        if seed < 9:
            saved.catch_up()
    restored.load_state_dict(saved.state_dict())
    assert (restored.rank(features_gNF).predicted_gn == saved.rank(features_gNF).predicted_gn).all()
    for which in (saved, restored):
        which.catch_up()
    assert restored.trusted == saved.trusted
    assert (restored.rank(features_gNF).predicted_gn == saved.rank(features_gNF).predicted_gn).all()
    for name, tensor in saved.state_dict().items():
        assert torch.equal(tensor, restored.state_dict()[name]), name


def test_one_that_does_not_separate_and_has_no_score_is_not_trusted():
    alike = Prefilter(Predictor(samples(1, (60,)), samples(2, (60,)), samples(3, (60,))))
    assert not alike.rank(samples(4, (1, 5))).trusted


def test_importance_never_learns():
    ours, features_gNF = prefilter(ImportanceWeights), samples(4, (2, 5))
    before = ours.rank(features_gNF).predicted_gn
    ours.send(features_gNF, before, drawn_scores(5))
    ours.catch_up()
    assert (ours.rank(features_gNF).predicted_gn == before).all()


def _learn_on(world, groups):
    """Three scored steps of so many groups, dealt to the ranks; the state afterwards, and what was sent."""
    ours = prefilter()
    with Travels() as sent:
        _three_steps(world, groups, ours)
    return ours.state_dict(), sent.made


def _three_steps(world, groups, ours):
    for step in range(3):
        features_GNF, scores_GN = samples(step, (groups, 5)), np.random.default_rng(step).standard_normal((groups, 5))
        scores_GN[1, 2] = np.nan
        mine = slice(world.rank, None, world.size)
        ours.send(features_GNF[mine], ours.rank(features_GNF[mine]).predicted_gn, arriving(scores_GN[mine]))
        ours.catch_up()


def test_every_rank_learns_the_same_at_any_number_of_ranks():
    """In one collective a scored step, as large with four groups as with eight."""
    for groups in (4, 8):
        ((alone, _),), several = on_ranks(1, _learn_on, groups), on_ranks(2, _learn_on, groups)
        for state, sent in several:
            assert sent == [("allreduce_", (2 * BUCKETS + 2) * 8)] * 3
            for name, tensor in alone.items():
                assert torch.equal(tensor, state[name]), name
