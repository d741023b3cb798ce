"""One checkpoint: what steps on random batches do to the target loss, and what Taylor's formula says they do.

P weights, B samples of the pool, M target samples, k picks of a batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scripts.taylor.landscape import Batch, Landscape
from scripts.taylor.walks import AdamW, Sgd, walk

# Of the change of the target loss by a displacement d made of the gradients at the checkpoint, with v the target
# samples' mean gradient and H the Hessian of their loss.
PREDICTORS = {
    "score": "the sum of raw scores: - rate <v, g>; of plain gradient descent this is the first order",
    "preconditioned": "the same with Adam's divisors: - rate <v, P g>",
    "first": "first order: <v, d>",
    "identity": "with interaction, H = I: <v, d> + |d|^2 / 2",
    "measured": "with interaction, H = c I, c measured: <v, d> + c |d|^2 / 2",
    "exact": "with interaction, exact: <v, d> + <d, H d> / 2",
}
CALIBRATION = 4  # batches of their own that c is measured on
TARGETS, POOLS, RATES, BATCHES = (2, 4, 8, 16), (1, 2, 4, 8), (0.25, 1.0, 4.0, 16.0), (2, 8, 32)


@dataclass(frozen=True)
class Sizes:
    """steps: of each walk; batches: random batches for one step; walks: of more; picks: k; seed: of what is drawn."""

    steps: tuple[int, ...] = (1, 8, 24)
    batches: int = 48
    walks: int = 16
    picks: int = 8
    seed: int = 0


class Stage:
    """The checkpoint `step` with weights [P], a pool [B, T], target samples [M, T], and what makes steps, by name."""

    def __init__(
        self,
        step: int,
        landscape: Landscape,
        weights_P: Tensor,
        optimizers: dict[str, Sgd | AdamW],
        pool: Batch,
        target: Batch,
        sizes: Sizes,
    ):
        self.step, self._landscape, self._start_P, self._sizes = step, landscape, weights_P, sizes
        self._optimizers, self._pool, self._target = optimizers, pool, target
        self._v_P = landscape.gradient(weights_P, target)
        self._before = landscape.loss(weights_P, target)
        one_by_one = range(len(pool[0]))
        self._gradients_BP = torch.stack([landscape.gradient(weights_P, self._batch([i])) for i in one_by_one])

    @property
    def count(self) -> int:
        """Rows that there will be."""
        sizes, targets = self._sizes, len({*(m for m in TARGETS if m < len(self._target[0])), 0})
        walks = len(RATES) + sum(steps != 1 for steps in sizes.steps)
        ones = (1 in sizes.steps) + targets + len(POOLS) + len(BATCHES)
        return len(self._optimizers) * (sizes.walks * walks + sizes.batches * ones)

    def rows(self) -> Iterator[dict]:
        """A row for every batch of every experiment: stage, optimizer, experiment, setting, actual, predictions."""
        for name, optimizer in self._optimizers.items():
            self._c = self._measured_curvature(optimizer)
            for found in (self._over_steps, self._by_targets, self._by_pools, self._by_rates, self._by_batches):
                for row in found(optimizer):
                    yield {"stage": self.step, "optimizer": name, "curvature": self._c, **row}

    def _over_steps(self, optimizer: Sgd | AdamW) -> Iterator[dict]:
        for steps in self._sizes.steps:
            for batches in self._drawn("steps", steps, self._sizes.batches if steps == 1 else self._sizes.walks):
                displacement_P = self._displacement(optimizer, batches)
                predicted = self._predicted(optimizer, displacement_P, batches)
                predicted["exact"] = predicted["first"] + 0.5 * self._curvature(displacement_P)
                if steps == 1:
                    end_P = self._start_P + displacement_P
                else:
                    end_P = walk(optimizer, self._start_P, [self._gradient_on(batch) for batch in batches])
                yield {"experiment": "steps", "setting": steps, "actual": self._change(end_P), **predicted}

    def _by_targets(self, optimizer: Sgd | AdamW) -> Iterator[dict]:
        """The direction by the first m target samples, the change by all of them."""
        samples = len(self._target[0])
        few = {m: (self._target[0][:m], self._target[1][:m]) for m in TARGETS if m < samples}
        directions = {m: self._landscape.gradient(self._start_P, target) for m, target in few.items()}
        for batches in self._drawn("targets", 0, self._sizes.batches):
            displacement_P = self._displacement(optimizer, batches)
            actual = self._change(self._start_P + displacement_P)
            for m, v_P in {**directions, samples: self._v_P}.items():
                yield {"experiment": "targets", "setting": m, "actual": actual, "first": _dot(v_P, displacement_P)}

    def _by_pools(self, optimizer: Sgd | AdamW) -> Iterator[dict]:
        """Batches of the k highest scores of N."""
        k, scores_B = self._sizes.picks, (self._gradients_BP @ self._v_P).cpu().numpy()
        for ratio in POOLS:
            for (drawn_N,) in self._drawn("pools", ratio, self._sizes.batches, ratio * k):
                best = drawn_N[np.argsort(-scores_B[drawn_N], kind="stable")[:k]]
                yield {"experiment": "pools", "setting": ratio, **self._one_step(optimizer, [best])}

    def _by_rates(self, optimizer: Sgd | AdamW) -> Iterator[dict]:
        for factor in RATES:
            for batches in self._drawn("rates", 0, self._sizes.walks):
                row = self._one_step(optimizer.scaled(factor), batches)
                yield {"experiment": "rates", "setting": factor, **row}

    def _by_batches(self, optimizer: Sgd | AdamW) -> Iterator[dict]:
        for picks in BATCHES:
            for batches in self._drawn("batches", picks, self._sizes.batches, picks):
                yield {"experiment": "batches", "setting": picks, **self._one_step(optimizer, batches)}

    def _one_step(self, optimizer: Sgd | AdamW, batches: list[np.ndarray]) -> dict:
        displacement_P = self._displacement(optimizer, batches)
        actual = self._change(self._start_P + displacement_P)
        return {"actual": actual, **self._predicted(optimizer, displacement_P, batches)}

    def _drawn(self, experiment: str, setting: int, times: int, size: int | None = None) -> Iterator[list[np.ndarray]]:
        """Random batches of the pool for each walk: positions [size], as many batches as the walk has steps."""
        random = np.random.default_rng((self._sizes.seed, self.step, *experiment.encode(), setting))
        steps = setting if experiment == "steps" else 1
        size = size or self._sizes.picks
        for _ in range(times):
            yield [random.choice(len(self._gradients_BP), size, replace=False) for _ in range(steps)]

    def _batch(self, places) -> Batch:
        return self._pool[0][places], self._pool[1][places]

    def _gradient_on(self, batch: np.ndarray):
        return lambda weights_P: self._landscape.gradient(weights_P, self._batch(batch))

    def _displacement(self, optimizer: Sgd | AdamW, batches: list[np.ndarray]) -> Tensor:
        """[P], of steps on the batches whose gradients are all taken at the start."""
        gradients = [self._gradients_BP[batch].mean(0) for batch in batches]
        fixed = [lambda _, gradient_P=gradient_P: gradient_P for gradient_P in gradients]
        return walk(optimizer, self._start_P, fixed) - self._start_P

    def _change(self, weights_P: Tensor) -> float:
        return self._landscape.loss(weights_P, self._target) - self._before

    def _curvature(self, displacement_P: Tensor) -> float:
        return self._landscape.curvature(self._start_P, displacement_P, self._target)

    def _measured_curvature(self, optimizer: Sgd | AdamW) -> float:
        """c, such that c |d|^2 is <d, H d> over some steps of their own."""
        steps = [self._displacement(optimizer, batches) for batches in self._drawn("calibration", 0, CALIBRATION)]
        return sum(map(self._curvature, steps)) / sum(_dot(step_P, step_P) for step_P in steps)

    def _predicted(self, optimizer: Sgd | AdamW, displacement_P: Tensor, batches: list[np.ndarray]) -> dict:
        first, square = _dot(self._v_P, displacement_P), _dot(displacement_P, displacement_P)
        found = {"first": first, "identity": first + 0.5 * square, "measured": first + 0.5 * self._c * square}
        if isinstance(optimizer, AdamW):
            sum_P = sum(self._gradients_BP[batch].mean(0) for batch in batches)
            found["score"] = -optimizer.rate * _dot(self._v_P, sum_P)
            found["preconditioned"] = -optimizer.rate * _dot(self._v_P, optimizer.preconditioned(sum_P))
        return found


def _dot(one_P: Tensor, other_P: Tensor) -> float:
    return (one_P.double() @ other_P.double()).item()
