"""N-gram importance weights: how much more frequent an n-gram is in the target text than in the pool."""

import numpy as np

from .predictor import Predictor


class ImportanceWeights(Predictor):
    """The log of how much more frequent an n-gram is in the target text than in the pool; it learns from no score."""

    def learn(self, features_GNF: np.ndarray, scores_GN: np.ndarray) -> None:
        pass

    def _weights(self, target_counts: np.ndarray, pool_counts: np.ndarray) -> np.ndarray:
        target, pool = target_counts + 0.5, pool_counts + 0.5
        return (np.log(target / target.sum()) - np.log(pool / pool.sum())).astype(np.float32)
