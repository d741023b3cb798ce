"""What stands before the scoring: from all drawn candidates to those that the model gets to see.

On a scored step the prefilter shortlists N of a group's drawn candidates and the scores choose k of these; on the
steps between, it chooses the k itself. A part of every shortlist is not its choice but drawn at random, so that
it never learns only from what it already likes.

The device waits for none of it. While the device computes step t, the host learns what was scored at step t - 1 and
ranks the candidates of step t + 1, which the loader has read already; scores travel between the ranks meanwhile. So
what is scored at step t is first used at step t + 2.

Shapes: g groups of this rank, n candidates drawn a group, N shortlisted, F features.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist

from ..log.arriving import Arriving
from .judge import Judge, group_correlations
from .predictor import Predictor

_UNITS = 1 << 40  # of a correlation, counted in whole numbers as a lesson is


@dataclass(frozen=True)
class Ranking:
    """predicted_gn: of this rank's candidates, higher is better; trusted: whether shortlists follow it."""

    predicted_gn: np.ndarray
    trusted: bool

    def shortlist(self, group: int, size: int, explore: float = 0.0, among: int | None = None) -> np.ndarray:
        """Positions [size] of one group's candidates: the best, then the share `explore` of `size` at random.

        Candidates are drawn in random order, so those at random are the first ones that are not among the best; all
        are, where the ranking is not trusted. among: only the first so many of the group stand to be chosen.
        """
        if not self.trusted:
            return np.arange(size)
        predicted_n = self.predicted_gn[group, :among]
        best = np.argsort(-predicted_n, kind="stable")[: size - round(explore * size)]
        return filled_up(best, size, len(predicted_n))


def filled_up(best: np.ndarray, size: int, n: int) -> np.ndarray:
    """Positions [size] among n candidates: the best, then the first that are not among them."""
    others = np.setdiff1d(np.arange(n), best)
    return np.concatenate([best, others[: size - len(best)]])


class Prefilter:
    """A predictor, the judge that switches it off while it does not earn, and its learning in turn.

    temperature: of the noise that predictions get, in standard deviations of a group's; with it the k best are drawn
    without replacement, more likely the better they are (Gumbel top-k, Kool et al. 2019). 0: none.
    judged: whether the judge is listened to; else the predictor is trusted.
    """

    learns_from = "scores"

    def __init__(self, predictor: Predictor, temperature: float = 0.0, judged: bool = True):
        self._temperature, self._judged = temperature, judged
        self.predictor, self.judge = predictor, Judge(predictor.separation())
        self.trusted = self.judge.on or not judged
        self._sent: Summed | None = None
        self._leaving: tuple[np.ndarray, np.ndarray, Arriving] | None = None
        self._learnt = False  # since the last `catch_up`

    def rank(self, features_gnF: np.ndarray, step: int = 0, lanes: Sequence[int] = ()) -> Ranking:
        """The candidates of a step to come, in the groups of these lanes, by what `catch_up` learnt last."""
        predicted_gn = np.stack([self.predictor.predict(features_nF) for features_nF in features_gnF])
        if self._temperature:
            noise_gn = np.stack([gumbel(predicted_gn.shape[1], step, lane) for lane in lanes])
            predicted_gn = predicted_gn + self._temperature * predicted_gn.std(1, keepdims=True) * noise_gn
        return Ranking(predicted_gn, self.trusted)

    def send(self, features_gNF: np.ndarray, predicted_gN: np.ndarray, scores_gN: Arriving) -> None:
        """What this rank's shortlists of a scored step turned out to be worth, to be learnt on every rank.

        All ranks call it at the same step. The scores of one step must be learnt before those of another are sent.
        Scores of a device that may be still at work leave when they are to be learnt, a step later.
        """
        assert self._sent is self._leaving is None
        self._leaving = features_gNF, predicted_gN, scores_gN
        if scores_gN.at_once:
            self._leave()

    def _leave(self) -> None:
        if self._leaving is None:
            return
        (features_gNF, predicted_gN, arriving_gN), self._leaving = self._leaving, None
        scores_gN = arriving_gN.values().numpy()
        correlations = group_correlations(predicted_gN.astype(np.float64), scores_gN.astype(np.float64))
        heard = np.array([np.rint(np.array(correlations) * _UNITS).sum(), len(correlations)]).astype(np.int64)
        self._sent = Summed(heard, self.predictor.lesson(features_gNF, scores_gN))

    def settle(self) -> None:
        """Learns what was sent, without using it yet: the state is then complete, for a checkpoint."""
        self._leave()
        if self._sent is not None:
            (sum_, count), lesson = self._sent.arrived()
            self._sent, self._learnt = None, True
            self.predictor.learn(lesson)
            self.judge.hear(sum_ / _UNITS / count if count else math.nan, self.predictor.separation())

    def catch_up(self) -> None:
        """Learns what was sent; rankings from now on are by it."""
        self.settle()
        if self._learnt:
            self.predictor.refresh()
            self.trusted, self._learnt = self.judge.on or not self._judged, False

    def findings(self) -> dict:
        """For the metrics: what the judge's witnesses say."""
        return self.judge.findings()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Tensors, the same on every rank. Call `settle` before."""
        assert self._sent is None
        arrays = self.predictor.state_dict() | self.judge.state_dict() | {"trusted": np.array([int(self.trusted)])}
        return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        arrays = {name: tensor.numpy() for name, tensor in state.items()}
        self.predictor.load_state_dict(arrays)
        self.judge.load_state_dict(arrays)
        self.trusted = bool(arrays["trusted"][0])
        self._learnt = True  # the state may hold what was learnt and not yet used


def gumbel(n: int, *key: int) -> np.ndarray:
    """Standard Gumbel noise, float32 [n], a function of the key, such as step and lane: the same on whatever rank."""
    bits = np.random.PCG64(np.random.SeedSequence(key)).random_raw(n)
    return -np.log(-np.log((bits.astype(np.float64) + 0.5) / 2.0**64)).astype(np.float32)


class Gathered:
    """Whole numbers of this rank, on the host, on their way to all ranks; every rank has as many."""

    def __init__(self, array: np.ndarray):
        mine = torch.from_numpy(array)
        self._parts, self._work = [mine], None
        if dist.is_initialized() and dist.get_world_size() > 1:
            self._parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
            self._work = dist.all_gather(self._parts, mine, async_op=True)

    def arrived(self) -> np.ndarray:
        """Those of all ranks, one after the other."""
        if self._work is not None:
            self._work.wait()
        return torch.cat(self._parts).numpy()


class Summed:
    """Whole numbers of this rank, on the host, on their way to be added to those of all ranks."""

    def __init__(self, *arrays: np.ndarray):
        self._shapes, self._work = [array.shape for array in arrays], None
        self._numbers = torch.from_numpy(np.concatenate([array.ravel() for array in arrays]))
        if dist.is_initialized() and dist.get_world_size() > 1:
            self._work = dist.all_reduce(self._numbers, async_op=True)

    def arrived(self) -> list[np.ndarray]:
        """The sums, in the arrays' own shapes."""
        if self._work is not None:
            self._work.wait()
        ends = np.cumsum([math.prod(shape) for shape in self._shapes])
        parts = np.split(self._numbers.numpy(), ends[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, self._shapes, strict=True)]
