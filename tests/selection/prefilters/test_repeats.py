"""A text is known again wherever it stands; counts are forgotten by halves."""

import numpy as np
import pytest

from selection.prefilters.ngrams import PRINTS, Repeats, fingerprints, ngram_features
from selection.prefilters.ngrams.repeats import SLOTS


def draw(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def texts(seed: int, samples: int, length: int = 129) -> np.ndarray:
    return draw(seed).integers(1, 4000, (samples, length))


def test_equal_text_has_equal_fingerprints_and_other_text_others():
    tokens = texts(1, 40)
    prints = fingerprints(ngram_features(np.concatenate([tokens, tokens[::-1]])))
    assert prints.shape == (80, PRINTS)
    assert set(prints.ravel().tolist()) <= set(range(SLOTS))
    assert (prints[:40] == prints[40:][::-1]).all()
    assert len(np.unique(prints[:40])) >= 40 * PRINTS - 1  # a collision in eight million slots is rare


def test_a_text_counts_as_often_as_it_was_picked_also_at_another_place():
    document, others = texts(2, 1, 350)[0], texts(3, 20)
    seen = Repeats()
    for _ in range(3):
        seen.take_in(fingerprints(ngram_features(document[None, 100:229])))
    assert seen.times(ngram_features(document[None, 100:229])).tolist() == [3]
    assert seen.times(ngram_features(document[None, 110:239])).tolist() == [3]
    assert seen.times(ngram_features(document[None, 90:219])).tolist() == [3]
    assert seen.times(ngram_features(document[None, 214:343])).tolist() == [0]  # most of it is new
    assert not seen.times(ngram_features(others)).any()


def test_how_often_is_the_median_over_the_fingerprints_that_a_sample_has():
    tokens = np.concatenate([texts(4, 30), np.pad(texts(5, 10, 12), ((0, 0), (0, 117)))])
    features, seen = ngram_features(tokens), Repeats()
    slots = fingerprints(features)
    for step in range(5):
        seen.take_in(draw(step).choice(slots[slots >= 0], (150, 1), replace=False))
    counts = seen.state_dict()["repeats"]
    medians = [np.median(counts[own[own >= 0]]) for own in slots]
    assert len(set(medians)) > 3
    assert seen.times(features).tolist() == medians


def test_runs_that_fill_up_many_samples_are_one_fingerprint_of_each():
    """Short conversations are padded with one token: no two of them are alike for that."""
    tokens = texts(6, 30)
    tokens[:, 60:] = 0
    seen = Repeats()
    for features_F in ngram_features(tokens[:20]):
        seen.take_in(fingerprints(features_F[None]))
    assert (seen.times(ngram_features(tokens[:20])) == 1).all()
    assert not seen.times(ngram_features(tokens[20:])).any()


def test_samples_too_short_for_eight_runs_have_fewer():
    for length in (3, 4, 8, 12):
        tokens = texts(7, 3, length)
        prints = fingerprints(ngram_features(tokens))
        assert prints.shape == (3, PRINTS)
        assert ((prints >= 0).sum(1) == min(PRINTS, max(1, length - 8 if length > 8 else 1))).all(), length
        seen = Repeats()
        seen.take_in(prints[:1])
        assert seen.times(ngram_features(tokens)).tolist() == [1, 0, 0]


def test_counts_are_halved_when_an_eighth_of_the_slots_is_taken_and_end_at_255():
    often, once, seen = np.arange(8)[None], np.arange(8, 16)[None], Repeats()
    for _ in range(300):
        seen.take_in(often)
    assert (seen.state_dict()["repeats"][:8] == 255).all()
    assert [seen.take_in(once) for _ in range(3)] == [0, 1, 2]
    seen.take_in(np.arange(16, SLOTS // 8).reshape(-1, 8))
    assert (seen.state_dict()["repeats"][: SLOTS // 8] > 0).all()
    assert seen.take_in(often) == 255  # takes no new slot
    restored = Repeats()
    restored.load_state_dict(seen.state_dict())
    for ours in (seen, restored):
        ours.take_in(np.array([[SLOTS - 1, -1]]))
        counts = ours.state_dict()["repeats"]
        assert (counts[:8] == 127).all()
        assert (counts[8:16] == 1).all()
        assert not counts[16:].any()
    # And fill up again before they are halved again.
    seen.take_in(np.arange(16, SLOTS // 8).reshape(-1, 8))
    assert (seen.state_dict()["repeats"][16 : SLOTS // 8] == 1).all()


def test_over_passes_of_many_texts_counts_go_up_and_text_that_is_new_is_hardly_ever_known():
    prints, seen = draw(7).integers(0, SLOTS, (125_000, PRINTS), dtype=np.int32), Repeats()
    told = [np.mean([seen.take_in(part) for part in np.array_split(prints, 50)]) for _ in range(3)]
    assert told == pytest.approx([0, 1, 2], abs=0.05)
    new = draw(8).integers(0, SLOTS, (20_000, PRINTS), dtype=np.int32)
    assert (seen._times(new) > 0).mean() < 0.01
