"""Judges whether a prefilter earns: whether what it prefers scores higher, over many scored steps.

One step says little. Scores of successive steps oscillate, so the correlation of predictions with them wanders far
above and below zero while the predictor, which holds what persists, earns on average. What counts is therefore the
mean over the last scored steps, one value a step (the groups of a step share their direction, so they err together),
against its own standard error.
"""

import math

import numpy as np

WINDOW = 32  # scored steps looked back on
FEWEST = 8  # scored steps before it judges at all
OFF_BELOW, ON_ABOVE = -100.0, 2.0  # standard errors above zero; apart, so that it does not flicker


def group_correlation(predicted_GN: np.ndarray, scores_GN: np.ndarray) -> float:
    """The mean over groups of Pearson's correlation within the group, of what is finite; NaN where no group has one."""
    found = []
    for predicted_N, scores_N in zip(predicted_GN, scores_GN, strict=True):
        finite_N = np.isfinite(scores_N)
        predicted, scores = predicted_N[finite_N].astype(np.float64), scores_N[finite_N].astype(np.float64)
        if len(scores) > 1 and predicted.std() > 0 and scores.std() > 0:
            found.append(np.corrcoef(predicted, scores)[0, 1])
    return float(np.mean(found)) if found else math.nan


class Judge:
    """`on`: whether the prefilter may choose. It begins trusted; off when the mean correlation is less than one
    standard error above zero, on again at two."""

    def __init__(self):
        self.on = True
        self._correlations: list[float] = []

    @property
    def correlation(self) -> float:
        """The mean over the window; NaN before the first."""
        return float(np.mean(self._correlations)) if self._correlations else math.nan

    def hear(self, correlation: float) -> None:
        """Takes in the correlation of one scored step, made before the predictor learnt from it; NaN is no verdict."""
        if math.isnan(correlation):
            return
        self._correlations = [*self._correlations, correlation][-WINDOW:]
        heard = len(self._correlations)
        if heard >= FEWEST:
            error = float(np.std(self._correlations, ddof=1)) / math.sqrt(heard)
            self.on = self.correlation > (OFF_BELOW if self.on else ON_ABOVE) * error

    def state_dict(self) -> dict[str, np.ndarray]:
        padding = [math.nan] * (WINDOW - len(self._correlations))
        return {"correlations": np.array(self._correlations + padding), "on": np.array([self.on], dtype=np.int64)}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        self._correlations = [value for value in np.asarray(state["correlations"]).tolist() if not math.isnan(value)]
        self.on = bool(state["on"][0])
