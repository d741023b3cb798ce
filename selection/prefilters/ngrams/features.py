"""The n-grams of a sample, hashed into buckets: what a prefilter sees of it.

Shapes: n candidates drawn, T1 = T + 1 tokens a sample, F = 3 T - 1 n-grams of it, B buckets, b fine ones.
"""

import numpy as np

BUCKETS = 1 << 16  # of what travels between ranks and is saved
_FINE = 4  # bits more
FINE_BUCKETS = BUCKETS << _FINE  # of what a host keeps for itself: few n-grams share one
ODD = [np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0x165667B19E3779F9)]


def ngram_features(tokens_nT1: np.ndarray) -> np.ndarray:
    """The fine buckets of every sample's uni-, bi- and trigrams that end at a token after its first: uint32 [n, F].

    The first T columns are the unigrams, the next T the bigrams, the last T - 1 the trigrams, each in the order of the
    text. Equal n-grams fall into equal buckets on every machine.
    """
    codes_nT1 = tokens_nT1.astype(np.uint64) + np.uint64(1)
    hashed_nT1 = codes_nT1 * ODD[0]
    two = hashed_nT1[:, 1:] + codes_nT1[:, :-1] * ODD[1]
    three = two[:, 1:] + codes_nT1[:, :-2] * ODD[2]
    return np.concatenate([_bucket(hashed_nT1[:, 1:]), _bucket(two), _bucket(three)], axis=1)


def _bucket(codes: np.ndarray) -> np.ndarray:
    """The upper 20 of 64 mixed bits."""
    return (mixed(codes) >> np.uint64(48 - _FINE)).astype(np.uint32)


def mixed(codes: np.ndarray) -> np.ndarray:
    """Codes whose bits all depend on all bits of the given ones (the finalizer of splitmix64, Steele et al. 2014)."""
    codes = (codes ^ (codes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    codes = (codes ^ (codes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return codes ^ (codes >> np.uint64(31))


def coarse(features: np.ndarray) -> np.ndarray:
    """The buckets of fine buckets, each of 16 that follow one another."""
    return features >> np.uint32(_FINE)


def count_ngrams(features: np.ndarray) -> np.ndarray:
    """How often each of the BUCKETS comes, float64 [B]."""
    return np.bincount(coarse(features).ravel(), minlength=BUCKETS).astype(np.float64)
