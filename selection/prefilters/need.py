"""A filter for every cluster of the target text, each filling its share of the picks; shares follow what is learnt.

The clusters are found among the target samples' words (ngrams/clusters.py). A cluster's filter weighs n-grams as
`ImportanceWeights` does: its own text against the pool; and beside what words there are, their order (ngrams/order.py).
What share of the picks it gets is decided by returns. Now and then the losses of a few fixed target samples of every
cluster are measured, and shares move towards

    size of the cluster * fall of its loss over the window / its present share,

normalised. Left alone they settle where they are proportional to the square roots of size times fall. Falls are of the
same samples, so that what differs between samples cancels; and since a dozen samples say little, they are drawn
towards their mean by as much as their own errors explain of the differences between them (empirical Bayes, Efron &
Morris 1975). Every share is raised to FLOOR of its cluster's size before they are made to add up to 1: what is
known would be forgotten unseen.

Whether filters choose at all is asked of all clusters together: two kinds of wanted text, taken for one, can look like
the pool although each is unlike it.

Where the share of a cluster calls for more of it than was drawn, its filter's next best is other text. So a turn passes
to another cluster when no candidate is left that looks as much like its own text as half of that text does, each half
of it seen by a filter of the other half.

What a candidate is worth to a cluster is 1 if it looks as much like it as that half, and less in proportion as less
of the cluster's own text looks as little like it. Every time that its text was picked before (ngrams/repeats.py) it is
worth less, by a factor e after WORN times: text that comes again teaches less, and the other half gets its turn little
by little. Of those that are worth the same, the first is taken that was drawn, not the best: batches of the extremes of
a cluster teach less than its text at random.

Everything is numpy on the host and the same on every rank. Of what was picked, the fingerprints travel, 32 bytes a
pick, behind the step's own work: picks of step t count from step t + 2 on. Those of scored steps, which the device
makes, are not counted.

Shapes: C clusters, w watched samples of each, g groups of this rank, n candidates drawn a group, k picks, K of a step
over all ranks, F features, B buckets, b fine ones, P fingerprints.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .cascade import Gathered, filled_up
from .importance import log_ratio
from .judge import SEPARATION, area
from .ngrams import BUCKETS, FINE_BUCKETS, PRINTS, Repeats, cluster, count_ngrams, fingerprints, order_weights

FLOOR = 0.2
ORDER = 0.5  # of the order of words, beside what words there are
LEAST = 0.5  # quantile of a cluster's own text, as its filter sees it, below which a candidate is worth less
WORN = 15.4  # times that a text was picked, after which it is worth 1/e (Muennighoff et al., NeurIPS 2023)
RATE = 0.4  # of the way to the shares that the returns call for, at every measurement
# Fractions of the golden ratio's family: multiples of them are spread evenly over [0, 1) (Roberts 2018, R2 sequence).
_STEP, _LANE = 0.7548776662466927, 0.5698402909980532


@dataclass(frozen=True)
class SharedRanking:
    """predicted_gCn: of this rank's candidates by every cluster's filter, 0 in the mean of the pool; least_C: what a
    candidate of the cluster is predicted at least; worth_gCn: of this rank's candidates to every cluster; shares_C: of
    the turns; offsets_g: what spreads these over steps and groups; trusted: whether the filters tell target text from
    the pool at all."""

    predicted_gCn: np.ndarray
    least_C: np.ndarray
    worth_gCn: np.ndarray
    shares_C: np.ndarray
    offsets_g: Sequence[float]
    trusted: bool

    @property
    def predicted_gn(self) -> np.ndarray:
        """The best that any cluster's filter says."""
        return self.predicted_gCn.max(1)

    def shortlist(self, group: int, size: int, explore: float = 0.0, among: int | None = None) -> np.ndarray:
        """Positions [size] of one group's candidates: what clusters take in turn, then others as in `Ranking`."""
        if not self.trusted:
            return np.arange(size)
        margins_Cn = self.predicted_gCn[group, :, :among] - self.least_C[:, None]
        whose = turns(self.shares_C, size - round(explore * size), self.offsets_g[group])
        return filled_up(taken(margins_Cn, self.worth_gCn[group, :, :among], whose), size, margins_Cn.shape[1])


class SharedFilters:
    """target_nF, pool_nF: features of the target samples and of samples of the pool; fresh_pF: of further ones of the
    pool. clusters: C at most; samples: of the target, watched in all; every: steps between two measurements; memory:
    measurements that a window spans; picks: of a step, over all ranks; judged: whether filters are trusted only where
    they tell target text from the pool."""

    learns_from = "picks"

    def __init__(
        self,
        target_nF: np.ndarray,
        pool_nF: np.ndarray,
        fresh_pF: np.ndarray,
        *,
        clusters: int,
        samples: int,
        every: int,
        memory: int,
        picks: int,
        judged: bool = True,
    ):
        self._every, self._memory = every, memory
        found_n = cluster(target_nF, clusters)
        members = [np.flatnonzero(found_n == c) for c in range(found_n.max() + 1)]
        self.sizes_C = np.array([len(m) for m in members]) / len(found_n)
        self.shares_C = self.sizes_C.copy()
        self._filters = _Filters([target_nF[m] for m in members], pool_nF)
        halves = [m[: len(m) // 2] for m in members], [m[len(m) // 2 :] for m in members]
        folds = [_Fold(target_nF, own, others, pool_nF, fresh_pF) for own, others in (halves, halves[::-1])]
        # Every cluster's own text, by the filter of its other half.
        seen_by_fold = zip(*(fold.own for fold in folds), strict=True)
        self._own_C = [np.sort(np.concatenate(seen)) for seen in seen_by_fold]
        self.least_C = np.array([np.quantile(own_n, LEAST, method="lower") for own_n in self._own_C])
        watched = max(1, samples // len(members))
        # Positions among the target samples, [C w], cluster by cluster, each spread evenly over its own.
        self.watched = np.concatenate([m[np.arange(watched) * len(m) // watched] for m in members])
        self._losses: list[np.ndarray] = []
        self._repeats, self._picks = Repeats(), picks
        self._sent: Gathered | None = None
        self._arrived_KP: np.ndarray | None = None  # and not counted yet
        self._before: float | None = None  # how often the picks that were counted last had been picked before
        # They learn nothing, so the judge's other witness is all there is to hear, and once.
        self.separation = float(np.mean([fold.separation(self.least_C) for fold in folds]))
        self.trusted = self.separation > SEPARATION[False] or not judged

    def rank(self, features_gnF: np.ndarray, step: int, lanes: Sequence[int]) -> SharedRanking:
        """The candidates of `step`, in the groups of these lanes, by the present shares."""
        predicted_gCn = np.stack([self._filters.predict(features_nF) for features_nF in features_gnF])
        worth_gCn = np.stack(list(map(self._worth, features_gnF, predicted_gCn)))
        offsets_g = [step * _STEP + lane * _LANE for lane in lanes]
        return SharedRanking(predicted_gCn, self.least_C, worth_gCn, self.shares_C, offsets_g, self.trusted)

    def _worth(self, features_nF: np.ndarray, predicted_Cn: np.ndarray) -> np.ndarray:
        """[C, n]: above 0 for what looks like some of a cluster's own text, below for what looks less so than all."""
        worn_n = self._repeats.times(features_nF) / WORN
        pairs = zip(self._own_C, predicted_Cn, strict=True)
        below_Cn = np.stack([np.searchsorted(own_n, said_n, side="right") / len(own_n) for own_n, said_n in pairs])
        worth_Cn = np.minimum(below_Cn / LEAST, 1) * np.exp(-worn_n)
        lowest_C = np.array([own_n[0] for own_n in self._own_C])
        return np.where(below_Cn > 0, worth_Cn, predicted_Cn - lowest_C[:, None] - worn_n)

    def to_watch(self, step: int) -> np.ndarray:
        """Positions among the target samples whose losses are wanted before `step` is taken: [C w], or none."""
        return self.watched if self.trusted and step % self._every == 0 else self.watched[:0]

    def hear(self, step: int, losses: np.ndarray) -> None:
        """Takes in the losses of what `to_watch` asked for, and moves the shares."""
        self._losses = [*self._losses, losses.reshape(len(self.sizes_C), -1)][-self._memory :]
        if len(self._losses) > 1:
            self.shares_C = moved(self.shares_C, self.sizes_C, self._losses[0] - self._losses[-1])

    def send(self, features_gkF: np.ndarray) -> None:
        """The picks of this rank's groups, to be counted on every rank. All ranks call it at the same step."""
        assert self._sent is None
        if self.trusted:  # or else nobody will ask, on any rank
            self._sent = Gathered(fingerprints(features_gkF.reshape(-1, features_gkF.shape[-1])))

    def settle(self) -> None:
        """Takes in what was sent, without using it yet: the state is then complete, for a checkpoint."""
        if self._sent is not None:
            self._arrived_KP, self._sent = self._sent.arrived(), None
            assert len(self._arrived_KP) == self._picks

    def catch_up(self) -> None:
        """Takes in what was sent; rankings from now on are by it."""
        self.settle()
        self._before = None if self._arrived_KP is None else self._repeats.take_in(self._arrived_KP)
        self._arrived_KP = None

    def findings(self) -> dict:
        """For the metrics: every cluster's share of the picks, the loss of its watched samples, how often the text of
        the picks that were counted in this step had been picked before, and the separation."""
        known = self._losses[-1].mean(1).tolist() if self._losses else [None] * len(self.sizes_C)
        found = {"share": self.shares_C.tolist(), "cluster_loss": known, "picked_before": self._before}
        return found | {"prefilter_separation": self.separation}

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Tensors, the same on every rank. Call `settle` before."""
        assert self._sent is None
        losses_sCw = np.zeros((self._memory, len(self.sizes_C), len(self.watched) // len(self.sizes_C)))
        losses_sCw[: len(self._losses)] = self._losses if self._losses else 0
        arrays = {"shares": self.shares_C, "losses": losses_sCw, "heard": np.array([len(self._losses)])}
        none_KP = np.full((self._picks, PRINTS), -1, dtype=np.int32)
        arrays |= {"arrived": none_KP if self._arrived_KP is None else self._arrived_KP} | self._repeats.state_dict()
        return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.shares_C = state["shares"].numpy().copy()
        self._losses = list(state["losses"].numpy()[: int(state["heard"])].copy())
        arrived_KP = state["arrived"].numpy().copy()
        self._arrived_KP = arrived_KP if (arrived_KP >= 0).any() else None
        self._repeats.load_state_dict({name: tensor.numpy() for name, tensor in state.items()})


class _Filters:
    """One for the text of every cluster: what n-grams it has, and in what order, against the pool.

    Both are in standard deviations over the pool, and the order counts ORDER times as much.
    """

    def __init__(self, texts: Sequence[np.ndarray], pool_nF: np.ndarray):
        pool_B = count_ngrams(pool_nF)
        self._weights_bC = np.empty((FINE_BUCKETS, len(texts)), dtype=np.float32)
        for c, own_nF in enumerate(texts):
            ngrams_b = np.repeat(log_ratio(count_ngrams(own_nF), pool_B), FINE_BUCKETS // BUCKETS)
            order_b = order_weights(own_nF)
            spreads = [max(float(weights_b[pool_nF].mean(1).std()), 1e-12) for weights_b in (ngrams_b, order_b)]
            self._weights_bC[:, c] = ngrams_b / spreads[0] + ORDER * order_b / spreads[1]
        self._mean_C = self._weights_bC[pool_nF].mean((0, 1), dtype=np.float64)

    def predict(self, features_nF: np.ndarray) -> np.ndarray:
        """What every cluster's filter says of every sample, 0 in the mean of the pool: float32 [C, n]."""
        return (self._weights_bC[features_nF].mean(1) - self._mean_C).T.astype(np.float32)


class _Fold:
    """What filters of one half of each cluster predict of the other half, and of samples of the pool."""

    def __init__(self, target_nF: np.ndarray, counted: list, others: list, pool_nF: np.ndarray, fresh_pF: np.ndarray):
        filters = _Filters([target_nF[half] for half in counted], pool_nF)
        self._others_Cn, self._fresh_Cp = filters.predict(target_nF[np.concatenate(others)]), filters.predict(fresh_pF)
        clusters_n = np.repeat(np.arange(len(others)), [len(half) for half in others])
        self.own = [self._others_Cn[c, clusters_n == c] for c in range(len(others))]

    def separation(self, least_C: np.ndarray) -> float:
        """The probability that a target sample looks more like some cluster than a sample of the pool looks like any
        (area under the ROC curve, of margins over `least_C`)."""
        target_n, pool_p = ((seen_Cn - least_C[:, None]).max(0) for seen_Cn in (self._others_Cn, self._fresh_Cp))
        return area(target_n, pool_p)


def moved(shares_C: np.ndarray, sizes_C: np.ndarray, falls_Cw: np.ndarray) -> np.ndarray:
    """The shares after a measurement of how far the watched samples' losses fell over the window."""
    falls_C = falls_Cw.mean(1)
    if len(falls_C) > 1 and falls_Cw.shape[1] > 1:
        noise = float(np.mean(falls_Cw.var(1, ddof=1) / falls_Cw.shape[1]))
        true = max(0.0, float(falls_C.var(ddof=1)) - noise)
        falls_C = falls_C.mean() + (falls_C - falls_C.mean()) * (true / (true + noise) if true else 0.0)
    wanted_C = sizes_C * np.maximum(falls_C, 0) / shares_C
    if not np.isfinite(wanted_C).all() or wanted_C.sum() <= 0:
        return shares_C
    shares_C = shares_C + RATE * (wanted_C / wanted_C.sum() - shares_C)
    shares_C = np.maximum(shares_C, FLOOR * sizes_C)
    return shares_C / shares_C.sum()


def turns(shares_C: np.ndarray, size: int, offset: float) -> np.ndarray:
    """Whose turn it is, [size]: systematic sampling, so that every cluster gets its share to within one pick.

    The fraction of `offset`, where that is spread evenly over groups and steps, makes fractions of a pick add up.
    """
    places = (np.arange(size) + offset % 1) / size
    return np.minimum(np.searchsorted(np.cumsum(shares_C), places, side="right"), len(shares_C) - 1)


def taken(margins_Cn: np.ndarray, worth_Cn: np.ndarray, whose: np.ndarray) -> np.ndarray:
    """Positions, one a turn: the first drawn of those that are worth most to the cluster `whose` turn it is.

    margins_Cn: over what a candidate of the cluster is predicted at least. A cluster that finds nothing of its own
    gives its turn to the one whose best is most clearly its own.
    """
    margins_Cn, worth_Cn, positions = margins_Cn.copy(), worth_Cn.copy(), []
    for turn in whose:
        if margins_Cn[turn].max() < 0:
            turn = int(np.argmax(margins_Cn.max(1)))
        positions.append(int(np.argmax(worth_Cn[turn])))
        margins_Cn[:, positions[-1]] = worth_Cn[:, positions[-1]] = -np.inf
    return np.array(positions, dtype=int)
