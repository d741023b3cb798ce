"""Predicts which candidates will score high, from their n-grams: free picks between scored steps.

The score <g_i, v> of a sample is a sum over its tokens, so most of what can be known of it beforehand is which
n-grams it is made of. The predictor keeps, for every hashed uni-, bi- and trigram, the mean standardised score of
the candidates it came in, shrunk towards zero where it came seldom; a sample's prediction is the mean over its
n-grams. Scores of one step oscillate with the optimizer; means over many steps keep what persists.

It starts from the target text itself: every target sample counts as a candidate of score +1, and as many samples of
the pool as candidates of score -1. With plenty of target text this is nearly an n-gram importance filter
(`ImportanceWeights`, after Xie et al., "DSIR", NeurIPS 2023), with little of it the measured scores soon outweigh it.

Everything is numpy on the host. What a step teaches is counted in whole numbers, standardised scores in units of 2^-24:
their sums are exact in whatever order, so the numbers are the same on every rank and at any number of ranks. Memory is
constant, about 5 MB, 1.3 MB of it in a checkpoint; 1 MB travels a scored step, however many candidates it had. Why
these features and this rule: `scripts.bench predictor` measures them against others.

Shapes: n candidates drawn, T1 = T + 1 tokens a sample, F = 3 T - 1 n-grams of it, B buckets.
"""

import numpy as np

from .judge import area
from .ngrams import BUCKETS, coarse, count_ngrams

# Occurrences at which an n-gram's mean score counts half.
SHRINKAGE = 80.0

# Of the sums, per scored step: half the weight is gone after 69 of them, as the model learns and wants other text.
FORGETTING = 0.99
_UNITS = 1 << 24  # of a standardised score
_JUDGED = 128  # samples of each half and of the pool that `separation` compares


class Predictor:
    """Mean scores of n-grams, learnt online.

    target_nF, pool_nF: features of the target samples, and of as many of the pool, to start from. fresh_pF: features of
    other samples of the pool, which `separation` compares held-out target samples with.
    """

    def __init__(self, target_nF: np.ndarray, pool_nF: np.ndarray, fresh_pF: np.ndarray):
        self._sums, self._counts = np.zeros(BUCKETS), np.zeros(BUCKETS)
        self._fresh_pF = fresh_pF[:_JUDGED]
        # Target samples come in the order of their documents: halves share at most one.
        half = len(target_nF) // 2
        first, second = (
            (count_ngrams(target_nF[part]), count_ngrams(pool_nF[part])) for part in (slice(half), slice(half, None))
        )
        self._folds = [(_some(target_nF[:half]), second), (_some(target_nF[half:]), first)]
        self._start = first[0] + second[0], first[1] + second[1]
        self.refresh()

    def predict(self, features_nF: np.ndarray) -> np.ndarray:
        """A prediction for every sample, by the weights of the last `refresh`: float32 [n], higher is better."""
        return _predicted(self.weights, features_nF)

    def lesson(self, features_gNF: np.ndarray, scores_gN: np.ndarray) -> np.ndarray:
        """What the scores of groups teach, int64 [2, B], to be added to that of other groups of the step.

        They count relative to their own group, whose mean and spread change from step to step. Those that are not
        finite are left out, and so is a group of equal scores.
        """
        sums_B, counts_B = np.zeros((2, BUCKETS), dtype=np.int64)
        for features_NF, scores_N in zip(features_gNF, scores_gN, strict=True):
            finite_N = np.isfinite(scores_N)
            scores = scores_N[finite_N].astype(np.float64)
            if len(scores) < 2 or scores.std() == 0:
                continue
            features = features_NF[finite_N]
            standardised = np.rint((scores - scores.mean()) / scores.std() * _UNITS)
            # Whole numbers below 2^53, which sums in float64 keep exact.
            sums_B += np.bincount(coarse(features).ravel(), np.repeat(standardised, features.shape[1]), BUCKETS).astype(
                np.int64
            )
            counts_B += count_ngrams(features).astype(np.int64)
        return np.stack([sums_B, counts_B])

    def learn(self, lesson: np.ndarray) -> None:
        """Takes in the lesson of all groups of one step."""
        self._sums, self._counts = self._sums * FORGETTING + lesson[0] / _UNITS, self._counts * FORGETTING + lesson[1]

    def refresh(self) -> None:
        """Predictions from now on know what was learnt until now."""
        self.weights = self._weights(*self._start)

    def separation(self) -> float:
        """The probability that it predicts more for a target sample than for one of the pool; 0.5 is chance.

        Each half of the target samples is predicted without having been counted (area under the ROC curve, mean of
        both halves).
        """
        areas = []
        for held_out_nF, start in self._folds:
            weights = self._weights(*start)
            areas.append(area(_predicted(weights, held_out_nF), _predicted(weights, self._fresh_pF)))
        return float(np.mean(areas))

    def _weights(self, target_counts: np.ndarray, pool_counts: np.ndarray) -> np.ndarray:
        sums = self._sums + target_counts - pool_counts
        return (sums / (self._counts + target_counts + pool_counts + SHRINKAGE)).astype(np.float32)

    def state_dict(self) -> dict[str, np.ndarray]:
        return {"sums": self._sums, "counts": self._counts, "weights": self.weights}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        self._sums, self._counts, self.weights = (np.array(state[name]) for name in ("sums", "counts", "weights"))


def _predicted(weights: np.ndarray, features_nF: np.ndarray) -> np.ndarray:
    return weights[coarse(features_nF)].mean(1)


def _some(samples: np.ndarray) -> np.ndarray:
    """At most _JUDGED of them, evenly spread."""
    return samples[:: -(-len(samples) // _JUDGED)] if len(samples) else samples
