"""Ways to predict scores, the shipped one and its rivals, for `scripts.bench predictor` to replay.

Each is asked for predictions of candidates and later shown the scores of some of them. All samples are known by their
row in `Samples`.

Shapes: R rows, c of them candidates, n candidates predicted at once, G groups of N learnt from at once, F n-grams of a
sample, D the model's width.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Protocol

import numpy as np
import torch

from selection.prefilters.importance import ImportanceWeights
from selection.prefilters.ngrams import BUCKETS, coarse
from selection.prefilters.predictor import FORGETTING, SHRINKAGE, Predictor

WINDOW = 64  # scored groups that those look back on which replay
FEW = 16  # target samples, where the target text is small


@dataclass(frozen=True)
class Samples:
    """features_RF: n-grams of the drawn candidates, in the order of the run, then of target samples and of as many of
    the pool, whose rows are `target` and `pool`. embedded_ScD: mean token embedding of every candidate by each of S
    stages of the model; stage_c: the last one before the candidate's step."""

    features_RF: np.ndarray
    target: np.ndarray
    pool: np.ndarray
    embedded_ScD: np.ndarray
    stage_c: np.ndarray

    @cached_property
    def buckets_RF(self) -> np.ndarray:
        return coarse(self.features_RF)

    def few(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of FEW target samples, evenly spread, and of as many of the pool."""
        chosen = np.unique(np.arange(FEW) * len(self.target) // FEW)
        return self.target[chosen], self.pool[chosen]


class Variant(Protocol):
    def predict(self, rows_n: np.ndarray) -> np.ndarray: ...

    def learn(self, rows_GN: np.ndarray, scores_GN: np.ndarray) -> None: ...


def standardised(scores_N: np.ndarray) -> np.ndarray:
    spread = scores_N.std()
    return (scores_N - scores_N.mean()) / (spread if spread > 0 else 1.0)


def raw(scores_N: np.ndarray) -> np.ndarray:
    return scores_N


def ranks(scores_N: np.ndarray) -> np.ndarray:
    return standardised(scores_N.argsort().argsort())


class Shipped:
    """The Predictor as a run uses it; what was counted at the start is shared by all that begin from it."""

    def __init__(self, samples: Samples, predictor: Predictor):
        self._samples, self.predictor = samples, copy.copy(predictor)
        self.predictor.load_state_dict(predictor.state_dict())  # its own arrays

    def predict(self, rows_n: np.ndarray) -> np.ndarray:
        return self.predictor.predict(self._samples.features_RF[rows_n])

    def learn(self, rows_GN: np.ndarray, scores_GN: np.ndarray) -> None:
        self.predictor.learn(self.predictor.lesson(self._samples.features_RF[rows_GN], scores_GN))
        self.predictor.refresh()


class MeanScores:
    """The shipped rule without target text, with one part of it changed; `columns`: which n-grams."""

    def __init__(
        self, samples: Samples, columns=slice(None), shrinkage=SHRINKAGE, forgetting=FORGETTING, of=standardised
    ):
        self._buckets_RF, self._of = samples.buckets_RF[:, columns], of
        self._shrinkage, self._forgetting = shrinkage, forgetting
        self._sums, self._counts, self._weights = np.zeros((3, BUCKETS))

    def predict(self, rows_n: np.ndarray) -> np.ndarray:
        return self._weights[self._buckets_RF[rows_n]].mean(1)

    def learn(self, rows_GN: np.ndarray, scores_GN: np.ndarray) -> None:
        self._sums *= self._forgetting
        self._counts *= self._forgetting
        for rows_N, scores_N in zip(rows_GN, scores_GN, strict=True):
            buckets_NF = self._buckets_RF[rows_N]
            self._sums += _spread(buckets_NF, self._of(scores_N))
            self._counts += np.bincount(buckets_NF.ravel(), minlength=BUCKETS)
        self._weights = self._sums / (self._counts + self._shrinkage)


class Replay:
    """Keeps the last WINDOW groups and fits all of them anew each time: `rows`, and `values` to be predicted.

    prior: rows of target samples (+1) and of the pool (-1) that are never dropped.
    """

    def __init__(self, samples: Samples, prior: tuple[np.ndarray, np.ndarray] | None = None):
        self.samples = samples
        self.rows = np.concatenate(prior) if prior else np.empty(0, dtype=np.int64)
        self.values = np.repeat([1.0, -1.0], len(self.rows) // 2)
        self._fixed = len(self.rows)
        if self._fixed:
            self.fit(np.arange(0))

    def learn(self, rows_GN: np.ndarray, scores_GN: np.ndarray) -> None:
        fixed, window = np.split(np.arange(len(self.rows)), [self._fixed])
        room = WINDOW * rows_GN.shape[1] - rows_GN.size
        kept = np.concatenate([fixed, window[max(0, len(window) - room) :]])
        self.rows = np.concatenate([self.rows[kept], rows_GN.ravel()])
        self.values = np.concatenate([self.values[kept], *(standardised(scores_N) for scores_N in scores_GN)])
        self.fit(kept)

    def fit(self, kept: np.ndarray) -> None:
        """kept: what was at these places before is now at the beginning, and new rows follow."""
        raise NotImplementedError


class Ridge(Replay):
    """Least squares on n-gram counts with penalty |w|^2, exact, by the dual: one unknown a sample."""

    def __init__(self, samples: Samples, penalty: float, prior=None):
        self._penalty, self._gram, self._weights = penalty, np.empty((0, 0)), np.zeros(BUCKETS)
        super().__init__(samples, prior)

    def predict(self, rows_n: np.ndarray) -> np.ndarray:
        return self._weights[self.samples.buckets_RF[rows_n]].mean(1)

    def fit(self, kept: np.ndarray) -> None:
        buckets_rF = self.samples.buckets_RF[self.rows]
        # Only products with new rows are made, each by one dense vector of counts.
        gram = np.empty((len(self.rows), len(self.rows)))
        gram[: len(kept), : len(kept)] = self._gram[np.ix_(kept, kept)]
        for place in range(len(kept), len(self.rows)):
            counts = np.bincount(buckets_rF[place], minlength=BUCKETS)
            gram[place] = gram[:, place] = counts[buckets_rF].mean(1)
        dual_r = np.linalg.solve(gram + self._penalty * np.eye(len(gram)), self.values)
        self._gram, self._weights = gram, _spread(buckets_rF, dual_r)


class GradientDescent(Replay):
    """Least squares on n-gram frequencies by stochastic gradient descent, in batches of 16, from where it was left."""

    def __init__(self, samples: Samples, rate: float, passes: int = 2, decay: float = 1e-4):
        self._rate, self._passes, self._decay, self._weights = rate, passes, decay, np.zeros(BUCKETS)
        self._random = np.random.default_rng(0)
        super().__init__(samples)

    def predict(self, rows_n: np.ndarray) -> np.ndarray:
        return self._weights[self.samples.buckets_RF[rows_n]].mean(1)

    def fit(self, kept: np.ndarray) -> None:
        for _ in range(self._passes):
            order = self._random.permutation(len(self.rows))
            for batch in np.split(order, range(16, len(order), 16)):
                rows = self.rows[batch]
                error = self.predict(rows) - self.values[batch]
                self._weights *= 1 - self._decay
                self._weights -= self._rate * _spread(self.samples.buckets_RF[rows], error / len(batch))


class EmbeddingRidge(Replay):
    """Ridge regression on the mean of the sample's token embeddings, by the model's newest stage."""

    def __init__(self, samples: Samples, penalty: float):
        self._penalty, self._stage = penalty, 0
        super().__init__(samples)

    def predict(self, rows_n: np.ndarray) -> np.ndarray:
        if not len(self.rows):
            return np.zeros(len(rows_n))
        stage = self.samples.stage_c[rows_n[0]]
        if stage != self._stage:
            self._stage = stage
            self.fit(np.arange(0))
        return (self.samples.embedded_ScD[stage, rows_n] - self._mean) / self._spread @ self._weights

    def fit(self, kept: np.ndarray) -> None:
        inputs_rD = self.samples.embedded_ScD[self._stage, self.rows]
        self._mean, self._spread = inputs_rD.mean(0), inputs_rD.std(0) + 1e-12
        inputs_rD = (inputs_rD - self._mean) / self._spread
        penalties = self._penalty * np.eye(inputs_rD.shape[1])
        self._weights = np.linalg.solve(inputs_rD.T @ inputs_rD + penalties, inputs_rD.T @ self.values)


class Network(Replay):
    """Mean of 16 learnt numbers an n-gram (2^14 buckets), 16 tanh units, one output; trained by Adam, seeded."""

    def __init__(self, samples: Samples, rate: float, prior=None, updates: int = 20):
        self._updates, self._random = updates, np.random.default_rng(0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            bag = torch.nn.EmbeddingBag(1 << 14, 16, mode="mean")
            self._network = torch.nn.Sequential(
                bag, torch.nn.Linear(16, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1), torch.nn.Flatten(0)
            )
        torch.nn.init.zeros_(self._network[3].weight)
        self._optimizer = torch.optim.AdamW(self._network.parameters(), lr=rate, weight_decay=0.01)
        super().__init__(samples, prior)

    def _forward(self, rows: np.ndarray) -> torch.Tensor:
        return self._network(torch.from_numpy((self.samples.buckets_RF[rows] >> 2).astype(np.int64)))

    @torch.no_grad()
    def predict(self, rows_n: np.ndarray) -> np.ndarray:
        return self._forward(rows_n).numpy()

    def fit(self, kept: np.ndarray) -> None:
        for _ in range(self._updates):
            batch = self._random.choice(len(self.rows), min(128, len(self.rows)), replace=False)
            loss = (self._forward(self.rows[batch]) - torch.from_numpy(self.values[batch]).float()).square().mean()
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()


def variants(samples: Samples) -> dict[str, dict[str, Callable[[], Variant]]]:
    """{what they know of the target text: {name: what makes one}}; each group begins with the shipped one."""
    T = (samples.features_RF.shape[1] + 1) // 3
    few, every, none = samples.few(), (samples.target, samples.pool), (np.arange(0), np.arange(0))

    def shipped(rows, kind=Predictor):
        target, pool, fresh = (samples.features_RF[part] for part in (*rows, none[0]))
        return partial(Shipped, samples, kind(target, pool, fresh))

    def changed(**change):
        return partial(MeanScores, samples, **change)

    return {
        f"all {len(samples.target)} target samples": {
            "shipped": shipped(every),
            "n-gram importance, static": shipped(every, ImportanceWeights),
        },
        f"{FEW} target samples": {
            "shipped": shipped(few),
            "n-gram importance, static": shipped(few, ImportanceWeights),
            "ridge, penalty 1": partial(Ridge, samples, 1.0, few),
            "network, Adam at 0.01": partial(Network, samples, 0.01, few),
        },
        "scores alone": {
            "shipped": shipped(none),
            "unigrams": changed(columns=slice(T)),
            "uni- and bigrams": changed(columns=slice(2 * T)),
            "shrinkage 20": changed(shrinkage=20),
            "shrinkage 300": changed(shrinkage=300),
            "forgetting 0.9": changed(forgetting=0.9),
            "forgetting 1 (none)": changed(forgetting=1.0),
            "raw scores": changed(of=raw),
            "ranks": changed(of=ranks),
            "ridge, penalty 0.1": partial(Ridge, samples, 0.1),
            "ridge, penalty 1": partial(Ridge, samples, 1.0),
            "gradient descent at 0.1": partial(GradientDescent, samples, 0.1),
            "gradient descent at 1": partial(GradientDescent, samples, 1.0),
            "network, Adam at 0.003": partial(Network, samples, 0.003),
            "network, Adam at 0.01": partial(Network, samples, 0.01),
            "embeddings, penalty 100": partial(EmbeddingRidge, samples, 100.0),
            "embeddings, penalty 1000": partial(EmbeddingRidge, samples, 1000.0),
        },
    }


def _spread(buckets_NF: np.ndarray, values_N: np.ndarray) -> np.ndarray:
    """[BUCKETS], the values of the samples that each n-gram is in, summed by occurrence."""
    return np.bincount(buckets_NF.ravel(), np.repeat(values_N, buckets_NF.shape[1]), BUCKETS)
