"""Correlations with their errors."""

from dataclasses import dataclass

import numpy as np

RESAMPLES = 500


@dataclass(frozen=True)
class Correlation:
    """Pearson's r and Spearman's rho over `count` pairs, with bootstrap standard errors."""

    count: int
    pearson: float
    pearson_error: float
    spearman: float
    spearman_error: float


def correlation(predicted_n: np.ndarray, actual_n: np.ndarray) -> Correlation:
    """Of pairs, at least three; NaN where one side is constant. The resamples are the same at every call."""
    random, n = np.random.default_rng(0), len(actual_n)
    chosen_rn = random.integers(n, size=(RESAMPLES, n))
    values = []
    for one, other in ((predicted_n, actual_n), (ranks(predicted_n), ranks(actual_n))):
        resampled = np.array([pearson(one[chosen_n], other[chosen_n]) for chosen_n in chosen_rn])
        known = resampled[np.isfinite(resampled)]  # of few pairs a resample may be all one pair
        values += [pearson(one, other), float(known.std()) if len(known) else float("nan")]
    return Correlation(n, *values)


def pearson(one_n: np.ndarray, other_n: np.ndarray) -> float:
    one_n, other_n = one_n - one_n.mean(), other_n - other_n.mean()
    scale = np.sqrt((one_n @ one_n) * (other_n @ other_n))
    return float(one_n @ other_n / scale) if scale > 0 else float("nan")


def ranks(values_n: np.ndarray) -> np.ndarray:
    return values_n.argsort().argsort().astype(np.float64)
