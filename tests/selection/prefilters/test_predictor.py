"""The n-gram predictor against counts made by hand, and on text whose scores have a known cause."""

import subprocess
import sys
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from selection.prefilters.importance import ImportanceWeights
from selection.prefilters.ngrams import BUCKETS, FINE_BUCKETS, coarse, ngram_features
from selection.prefilters.predictor import FORGETTING, SHRINKAGE, Predictor

V = 50


def draw_tokens(samples, length=20, seed=0, low=0, high=V):
    return np.random.default_rng(seed).integers(low, high, (samples, length + 1)).astype(np.uint16)


def predictor(target=None, pool=None, fresh=None, kind=Predictor):
    none = np.empty((0, 21), dtype=np.uint16)
    return kind(*(ngram_features(none if tokens is None else tokens) for tokens in (target, pool, fresh)))


def test_equal_ngrams_and_only_they_share_a_bucket():
    tokens = draw_tokens(40)
    features = ngram_features(tokens)
    assert features.shape == (40, 20 + 20 + 19)
    assert features.dtype == np.uint32
    ngrams = {}
    for sample, row in zip(tokens.tolist(), features.tolist(), strict=True):
        listed = [*((t,) for t in sample[1:]), *pairwise(sample)]
        listed += zip(sample, sample[1:], sample[2:], strict=False)
        for ngram, bucket in zip(listed, row, strict=True):
            assert ngrams.setdefault(ngram, bucket) == bucket
    # Different n-grams collide as often as chance has it: n (n - 1) / 2 b pairs, within three standard deviations.
    n = len(ngrams)
    expected = n * (n - 1) / 2 / FINE_BUCKETS
    pairs = sum(count * (count - 1) / 2 for count in Counter(ngrams.values()).values())
    assert abs(pairs - expected) < 3 * expected**0.5


def test_buckets_are_the_same_in_every_process():
    code = "import numpy as np; from selection.prefilters.ngrams import ngram_features as features\n"
    code += "print(features(np.arange(5)[None]).tolist())"
    runs = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout for _ in range(2)}
    assert runs == {str(ngram_features(np.arange(5)[None]).tolist()) + "\n"}


def test_weights_are_shrunk_mean_standardised_scores():
    tokens = draw_tokens(8)
    features_GNF = ngram_features(tokens).reshape(2, 4, -1)
    first_GN = np.array([[1.0, 2.0, 3.0, 6.0], [5.0, np.nan, 5.0, 7.0]])
    second_GN = np.array([[2.0, 2.0, 2.0, 2.0], [-1.0, 0.0, 1.0, np.inf]])  # a group of equal scores teaches nothing
    ours = predictor()
    for scores_GN in (first_GN, second_GN):
        ours.learn(ours.lesson(features_GNF, scores_GN))
    ours.refresh()

    sums, counts = Counter(), Counter()
    for scores_GN, age in ((first_GN, 1), (second_GN, 0)):
        for features_NF, scores_N in zip(features_GNF, scores_GN, strict=True):
            finite = [score for score in scores_N if np.isfinite(score)]
            mean, spread = np.mean(finite), np.std(finite)
            for row, score in zip(coarse(features_NF).tolist(), scores_N, strict=True):
                for bucket in row if np.isfinite(score) and spread else []:
                    sums[bucket] += FORGETTING**age * (score - mean) / spread
                    counts[bucket] += FORGETTING**age
    weights = {bucket: sums[bucket] / (counts[bucket] + SHRINKAGE) for bucket in sums}
    expected_GN = [[np.mean([weights[b] for b in row]) for row in group] for group in coarse(features_GNF).tolist()]
    for features_NF, expected_N in zip(features_GNF, expected_GN, strict=True):
        assert ours.predict(features_NF) == pytest.approx(expected_N, rel=1e-5)


def test_it_starts_from_target_text_and_the_pool():
    target, pool = draw_tokens(6, low=0, high=20), draw_tokens(6, low=15, high=V, seed=1)
    ours = predictor(target, pool)
    hashed = [Counter(coarse(ngram_features(tokens)).ravel().tolist()) for tokens in (target, pool)]
    for bucket in (*hashed[0], *hashed[1]):
        here, there = hashed[0][bucket], hashed[1][bucket]
        assert ours.weights[bucket] == pytest.approx((here - there) / (here + there + SHRINKAGE), rel=1e-6)
    rival = predictor(target, pool, kind=ImportanceWeights)
    total = [6 * 59 + BUCKETS / 2] * 2
    for bucket in (*hashed[0], *hashed[1]):
        shares = [(count[bucket] + 0.5) / whole for count, whole in zip(hashed, total, strict=True)]
        assert rival.weights[bucket] == pytest.approx(np.log(shares[0] / shares[1]), rel=1e-5)


def test_it_finds_what_persists_under_scores_that_oscillate():
    """Token 7 is worth +1 on average; in one step of four it looks like -1, and every score has noise beside it."""
    random = np.random.default_rng(0)
    ours = predictor()
    for step in range(200):
        tokens = random.integers(0, V, (16, 21))
        sign = -1.0 if step % 4 == 0 else 1.0
        scores = sign * (tokens[:, 1:] == 7).sum(1) + 2 * random.standard_normal(16) + 100 * sign
        ours.learn(ours.lesson(ngram_features(tokens)[None], scores[None]))
    ours.refresh()
    tokens = random.integers(0, V, (500, 21))
    worth = (tokens[:, 1:] == 7).sum(1)
    assert np.corrcoef(ours.predict(ngram_features(tokens)), worth)[0, 1] > 0.5
    untaught = predictor()
    assert not untaught.predict(ngram_features(tokens)).any()


def test_learning_changes_predictions_only_at_the_refresh():
    features_GNF = ngram_features(draw_tokens(4))[None]
    ours = predictor()
    ours.learn(ours.lesson(features_GNF, np.arange(4.0)[None]))
    assert not ours.predict(features_GNF[0]).any()
    saved = {name: array.copy() for name, array in ours.state_dict().items()}
    ours.refresh()
    expected = ours.predict(features_GNF[0])
    assert (np.diff(expected) > 0).all()
    again = predictor()
    again.load_state_dict(saved)
    assert not again.predict(features_GNF[0]).any()
    again.refresh()
    assert (again.predict(features_GNF[0]) == expected).all()


@pytest.mark.parametrize("kind", [Predictor, ImportanceWeights])
def test_separation_is_measured_on_target_text_that_was_not_counted(kind):
    """Of one kind of text every sample is as good as another: had a sample's own n-grams counted, it would be 1."""
    alike = predictor(draw_tokens(200, seed=1), draw_tokens(200, seed=2), draw_tokens(128, seed=3), kind)
    assert alike.separation() == pytest.approx(0.5, abs=0.06)
    target, pool = draw_tokens(200, seed=1, high=30), draw_tokens(200, seed=2)
    other = predictor(target, pool, draw_tokens(128, seed=3), kind)
    assert other.separation() > 0.9
    backwards = predictor(pool, target, draw_tokens(128, seed=3, high=30), kind)
    assert backwards.separation() > 0.9


def test_separation_by_hand():
    """Two target samples, each predicted from the other; ties count half."""
    a, b, c = (np.full((1, 21), token, dtype=np.uint16) for token in (1, 2, 3))
    assert predictor(np.concatenate([a, a]), np.concatenate([b, b]), np.concatenate([a, b, b, c])).separation() == (
        pytest.approx((0.5 + 1 + 1 + 1) / 4)
    )
    assert predictor(np.concatenate([a, c]), np.concatenate([b, b]), np.concatenate([b])).separation() == 1.0
    misled = predictor(np.concatenate([a, a]), np.concatenate([b, b]), np.concatenate([b]))
    for _ in range(30):
        misled.learn(misled.lesson(ngram_features(np.concatenate([a, b] * 4))[None], np.array([[0.0, 1.0] * 4])))
    assert misled.separation() == 0.0
