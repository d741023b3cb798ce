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
    """The log of how much more frequent every bucket's n-grams are in the target text, add-half: float32 [B]."""
    target_B, pool_B = target_counts_B + 0.5, pool_counts_B + 0.5
    return (np.log(target_B / target_B.sum()) - np.log(pool_B / pool_B.sum())).astype(np.float32)
