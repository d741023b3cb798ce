"""Judges whether a prefilter earns, so that it chooses only while it does.

Two witnesses are heard, and either is enough:

- The scores: predictions should go with the scores that are measured later. One step says little. Scores of successive
  steps oscillate, and the correlation with them wanders far above and below zero; so what counts is its mean over many
  scored steps against its own standard error (one value a step: the groups of a step share their direction and err
  together). Early in a run this witness is clear. Later it fails: once the model has learnt what the target text has in
  common, text it has never been trained on has the larger gradients, and a first-order score then favours it or not as
  the weights swing from side to side, while training on it would still be slower.
- The target text: predictions should be higher for target samples than for the pool, on target samples that were
  not counted in (`Predictor.separation`). On a homogeneous pool they are not, whatever was learnt.
"""

import math

import numpy as np

WINDOW = 32  # scored steps looked back on
FEWEST = 8  # scored steps before it judges at all
# Bars of the two witnesses, to be trusted and, lower, to stay trusted: apart, so that the judge does not flicker.
ERRORS_ABOVE_ZERO = {False: 3.0, True: 2.0}
SEPARATION = {False: 0.65, True: 0.6}


def area(said_n: np.ndarray, others_p: np.ndarray) -> float:
    """The probability that one of the first is more than one of the others, equal ones by half: the area under the ROC
    curve; NaN where there are none of either."""
    if not len(said_n) or not len(others_p):
        return math.nan
    return float((np.sign(said_n[:, None] - others_p).mean() + 1) / 2)


def group_correlations(predicted_GN: np.ndarray, scores_GN: np.ndarray) -> list[float]:
    """Pearson's correlation within every group that has one, of what is finite."""
    found = []
    for predicted_N, scores_N in zip(predicted_GN, scores_GN, strict=True):
        finite_N = np.isfinite(scores_N)
        predicted, scores = predicted_N[finite_N].astype(np.float64), scores_N[finite_N].astype(np.float64)
        if len(scores) > 1 and predicted.std() > 0 and scores.std() > 0:
            found.append(float(np.corrcoef(predicted, scores)[0, 1]))
    return found


def group_correlation(predicted_GN: np.ndarray, scores_GN: np.ndarray) -> float:
    """The mean over groups of the correlation within the group; NaN where no group has one."""
    found = group_correlations(predicted_GN, scores_GN)
    return float(np.mean(found)) if found else math.nan


class Judge:
    """`on`: whether the prefilter may choose."""

    def __init__(self, separation: float):
        self.on = True
        self._correlations: list[float] = []
        self._decide(separation)

    @property
    def correlation(self) -> float:
        """The mean over the window; NaN before the first."""
        return float(np.mean(self._correlations)) if self._correlations else math.nan

    def hear(self, correlation: float, separation: float) -> None:
        """Takes in the correlation of one scored step, of predictions made before the predictor learnt from it (NaN:
        there was none), and how well the predictor separates by now."""
        if not math.isnan(correlation):
            self._correlations = [*self._correlations, correlation][-WINDOW:]
        self._decide(separation)

    def findings(self) -> dict[str, float | None]:
        """What both witnesses say, for the metrics."""
        correlation = self.correlation if self._correlations else None
        return {"prefilter_correlation": correlation, "prefilter_separation": self._separation}

    def _decide(self, separation: float) -> None:
        self._separation = separation
        heard = len(self._correlations)
        error = float(np.std(self._correlations, ddof=1)) / math.sqrt(heard) if heard >= FEWEST else math.inf
        self.on = separation > SEPARATION[self.on] or self.correlation > ERRORS_ABOVE_ZERO[self.on] * error

    def state_dict(self) -> dict[str, np.ndarray]:
        heard = len(self._correlations)
        return {
            "correlations": np.pad(np.array(self._correlations), (0, WINDOW - heard)),
            "separation": np.array([self._separation]),
            "judged": np.array([heard, self.on], dtype=np.int64),
        }

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        heard, on = state["judged"].tolist()
        self._correlations, self._separation = state["correlations"][:heard].tolist(), float(state["separation"][0])
        self.on = bool(on)
