"""N-gram importance weights: how much more frequent an n-gram is in the target text than in the pool."""

import numpy as np

from .predictor import Predictor


class ImportanceWeights(Predictor):
    """The log of how much more frequent an n-gram is in the target text than in the pool; it learns from no score."""

    def lesson(self, features_gNF: np.ndarray, scores_gN: np.ndarray) -> np.ndarray:
        return np.empty((2, 0), dtype=np.int64)

    def learn(self, lesson: np.ndarray) -> None:
        pass

    def _weights(self, target_counts: np.ndarray, pool_counts: np.ndarray) -> np.ndarray:
        return log_ratio(target_counts, pool_counts)


def log_ratio(target_counts_B: np.ndarray, pool_counts_B: np.ndarray) -> np.ndarray:
    """The log of how much more frequent every bucket's n-grams are in the target text, add-half: float32 [B].

    Counts of the pool are taken as if it were as long as the target text. So n-grams that neither has say nothing.
    """
    pool_counts_B = pool_counts_B * (target_counts_B.sum() / max(pool_counts_B.sum(), 1))
    return (np.log(target_counts_B + 0.5) - np.log(pool_counts_B + 0.5)).astype(np.float32)
