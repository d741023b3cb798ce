"""The order of words: the weights of n-grams add up to what a smoothed bigram model says, and know text in disorder."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from selection.prefilters.ngrams import ngram_features, order_weights
from selection.prefilters.ngrams.order import MU
from tests.helpers.selecting import topic


def test_weights_add_up_to_how_much_better_the_word_before_foresees_each_word():
    known, asked = topic(0, 20, range(20, 40)), topic(1, 5, range(20, 45))
    words, pairs = Counter(known[:, 1:].ravel().tolist()), Counter()
    for sample in known.tolist():
        pairs.update(pairwise(sample))
    total = sum(words.values())

    def gain(a: int, b: int) -> float:
        share = words[b] / total or 1.0  # a word that is not known is in no pair, and its share cancels
        return math.log((pairs[a, b] + MU * share) / (words[a] + MU) / share)

    # The weights of words are those of a sample's second to last, where gains ask for the first to the last but one.
    ends = [math.log1p(words[a] / MU) - math.log1p(words[z] / MU) for a, *_, z in asked.tolist()]
    expected = [
        sum(gain(a, b) for a, b in pairwise(sample)) + end for sample, end in zip(asked.tolist(), ends, strict=True)
    ]
    summed = order_weights(ngram_features(known))[ngram_features(asked)].sum(1)
    assert summed == pytest.approx(expected, rel=1e-5)


def test_text_in_disorder_has_less_of_it():
    weights = order_weights(ngram_features(topic(0, 60, range(20, 60))))
    text = topic(1, 40, range(20, 60))
    disorder = np.random.default_rng(2).permuted(text, axis=1)
    in_order, out_of_order = (weights[ngram_features(tokens)].mean(1) for tokens in (text, disorder))
    assert (in_order > out_of_order).all()


def test_nothing_known_weighs_nothing():
    assert not order_weights(ngram_features(np.zeros((0, 9), dtype=int))).any()
