"""Picks that bring what is trained on nearer to the target text, n-gram by n-gram.

A filter that holds the target text against the pool takes the same extreme at every step. Here it is held against what
has been trained on lately. With p the n-grams of the target text, q those of the picks of about the last HORIZON steps,
and q_i those of candidate i, training on i moves q by a small part of the way to q_i. To first order that changes
KL(q || p) in proportion to

    sum_b (q_i(b) - q(b)) log(q(b) / p(b)),

so the best candidate has the largest mean of log(p / q) over its n-grams. Each pick moves q before the next is taken:
picks of one group complement each other. q begins as the n-grams of the pool.

Everything is numpy on the host. Picks are counted in whole numbers and added up over all ranks, so q is the same on
every rank and at any number of ranks. 0.5 MB travels a step, behind the step's own work: picks of step t count from
step t + 2 on for the other groups, and at once within their own.

Shapes: g groups of this rank, n candidates drawn a group, k picks, F features, B buckets.
"""

from dataclasses import dataclass

import numpy as np
import torch

from .cascade import Summed
from .importance import ImportanceWeights
from .judge import SEPARATION
from .ngrams import BUCKETS, coarse, count_ngrams

HORIZON = 128  # steps after which a pick's part in q has fallen to 1/e


@dataclass(frozen=True)
class MatchedRanking:
    """predicted_gn: mean log(p / q) of this rank's candidates before the step's first pick; picks_gk: positions, in the
    order of being picked, None where that is not trusted."""

    predicted_gn: np.ndarray
    picks_gk: np.ndarray | None

    @property
    def trusted(self) -> bool:
        return self.picks_gk is not None

    def shortlist(self, group: int, size: int) -> np.ndarray:
        """Positions [size] of one group's picks: where nothing is trusted, the first that were drawn."""
        return np.arange(size) if self.picks_gk is None else self.picks_gk[group, :size]


class Matching:
    """target_nF, pool_nF: features of the target samples and of as many of the pool; fresh_pF: of further ones of it.
    picks: k of a group; judged: whether it is trusted only where the n-grams tell target text from the pool."""

    learns_from = "picks"

    def __init__(
        self, target_nF: np.ndarray, pool_nF: np.ndarray, fresh_pF: np.ndarray, *, picks: int, judged: bool = True
    ):
        self._picks = picks
        self.separation = ImportanceWeights(target_nF, pool_nF, fresh_pF).separation()
        self.trusted = self.separation > SEPARATION[False] or not judged
        self._log_target_B = np.log(_shares(count_ngrams(target_nF)))
        self._trained_B = self._known_B = _shares(count_ngrams(pool_nF))
        self._sent: Summed | None = None

    def rank(self, features_gnF: np.ndarray, step: int = 0, lanes: object = ()) -> MatchedRanking:
        """The candidates of a step to come, by what `catch_up` took in last."""
        predicted_gn = np.stack([self._said(features_nF, self._trained_B) for features_nF in features_gnF])
        picks_gk = np.stack(list(map(self._picked, features_gnF, predicted_gn))) if self.trusted else None
        return MatchedRanking(predicted_gn.astype(np.float32), picks_gk)

    def _said(self, features_nF: np.ndarray, trained_B: np.ndarray) -> np.ndarray:
        buckets_nF = coarse(features_nF)
        return (self._log_target_B[buckets_nF] - np.log(trained_B[buckets_nF])).mean(1)

    def _picked(self, features_nF: np.ndarray, said_n: np.ndarray) -> np.ndarray:
        """[k], as if the other groups of the step picked alike. said_n: of the candidates before the first pick."""
        trained_B, picks = self._trained_B.copy(), [int(np.argmax(said_n))]
        while len(picks) < self._picks:
            trained_B += count_ngrams(features_nF[picks[-1]]) / (features_nF.shape[1] * self._picks * HORIZON)
            said_n = self._said(features_nF, trained_B)
            said_n[picks] = -np.inf
            picks.append(int(np.argmax(said_n)))
        return np.array(picks)

    def send(self, features_gkF: np.ndarray) -> None:
        """The picks of this rank's groups, to be counted on every rank. All ranks call it at the same step."""
        assert self._sent is None
        if self.trusted:  # or else nobody will ask, on any rank
            self._sent = Summed(count_ngrams(features_gkF).astype(np.int64))

    def settle(self) -> None:
        """Takes in what was sent, without using it yet: the state is then complete, for a checkpoint."""
        if self._sent is not None:
            (counts_B,), self._sent = self._sent.arrived(), None
            self._known_B = self._known_B + (counts_B / counts_B.sum() - self._known_B) / HORIZON

    def catch_up(self) -> None:
        """Takes in what was sent; rankings from now on are by it."""
        self.settle()
        self._trained_B = self._known_B

    def findings(self) -> dict:
        """For the metrics."""
        return {"prefilter_separation": self.separation}

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Tensors, the same on every rank. Call `settle` before."""
        assert self._sent is None
        arrays = {"trained": self._trained_B, "known": self._known_B}
        return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self._trained_B, self._known_B = (state[name].numpy().copy() for name in ("trained", "known"))


def _shares(counts_B: np.ndarray) -> np.ndarray:
    """Shares of all n-grams, none of them 0 (add-half)."""
    return (counts_B + 0.5) / (counts_B.sum() + BUCKETS / 2)
