"""A text is known again wherever it stands; counts are forgotten by halves."""

import numpy as np

from selection.prefilters.ngrams import PRINTS, Repeats, fingerprints, ngram_features
from selection.prefilters.ngrams.repeats import SLOTS

DRAW = np.random.default_rng(0)


def texts(samples: int, length: int = 129) -> np.ndarray:
    return DRAW.integers(1, 4000, (samples, length))


def test_equal_text_has_equal_fingerprints_and_other_text_others():
    tokens = texts(40)
    prints = fingerprints(ngram_features(np.concatenate([tokens, tokens[::-1]])))
    assert prints.shape == (80, PRINTS)
    assert set(prints.ravel().tolist()) <= set(range(SLOTS))
    assert (prints[:40] == prints[40:][::-1]).all()
    assert len(np.unique(prints[:40])) >= 40 * PRINTS - 1  # a collision in four million slots is rare


def test_a_text_counts_as_often_as_it_was_picked_also_at_another_place():
    document, others = texts(1, 320)[0], texts(20)
    seen = Repeats()
    for _ in range(3):
        seen.take_in(fingerprints(ngram_features(document[None, 100:229])))
    assert seen.times(ngram_features(document[None, 100:229])).tolist() == [3]
    assert seen.times(ngram_features(document[None, 110:239])).tolist() == [3]
    assert seen.times(ngram_features(document[None, 90:219])).tolist() == [3]
    assert seen.times(ngram_features(document[None, 190:319])).tolist() == [0]  # most of it is new
    assert not seen.times(ngram_features(others)).any()


def test_how_often_is_the_median_over_the_fingerprints_that_a_sample_has():
    tokens = np.concatenate([texts(30), np.pad(texts(10, 12), ((0, 0), (0, 117)))])
    features, seen = ngram_features(tokens), Repeats()
    slots = fingerprints(features)
    for _ in range(5):
        seen.take_in(DRAW.choice(slots[slots >= 0], (150, 1), replace=False))
    counts = seen.state_dict()["repeats"]
    medians = [np.median(counts[own[own >= 0]]) for own in slots]
    assert len(set(medians)) > 3
    assert seen.times(features).tolist() == medians


def test_runs_that_fill_up_many_samples_are_one_fingerprint_of_each():
    """Short conversations are padded with one token: no two of them are alike for that."""
    tokens = texts(30)
    tokens[:, 60:] = 0
    seen = Repeats()
    for features_F in ngram_features(tokens[:20]):
        seen.take_in(fingerprints(features_F[None]))
    assert (seen.times(ngram_features(tokens[:20])) == 1).all()
    assert not seen.times(ngram_features(tokens[20:])).any()


def test_samples_too_short_for_eight_runs_have_fewer():
    for length in (3, 4, 8, 12):
        tokens = texts(3, length)
        prints = fingerprints(ngram_features(tokens))
        assert prints.shape == (3, PRINTS)
        assert ((prints >= 0).sum(1) == min(PRINTS, max(1, length - 8 if length > 8 else 1))).all(), length
        seen = Repeats()
        seen.take_in(prints[:1])
        assert seen.times(ngram_features(tokens)).tolist() == [1, 0, 0]


def test_counts_are_halved_when_half_as_many_were_taken_in_as_there_are_slots_and_end_at_255():
    often, once = np.arange(8)[None], np.arange(8, 16)[None]
    seen = Repeats()
    for _ in range(300):
        seen.take_in(often)
    assert (seen.state_dict()["repeats"][:8] == 255).all()
    seen.take_in(once)
    seen.take_in(np.arange(16, SLOTS // 2 - 301 * 8 + 16 - 1).reshape(1, -1))
    assert seen.state_dict()["taken_in"].tolist() == [SLOTS // 2 - 1]
    assert (seen.state_dict()["repeats"][8:16] == 1).all()
    seen.take_in(np.array([[SLOTS - 1, -1]]))
    counts = seen.state_dict()["repeats"]
    assert seen.state_dict()["taken_in"].tolist() == [SLOTS // 4]
    assert (counts[:8] == 127).all()
    assert not counts[8:].any()
    seen.take_in(once)
    restored = Repeats()
    restored.load_state_dict(seen.state_dict())
    seen.take_in(once)
    restored.take_in(once)
    for name, array in seen.state_dict().items():
        assert (array == restored.state_dict()[name]).all()
