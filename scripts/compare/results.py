"""What a comparison's runs measured: the chosen learning rates, when a curve reaches a loss, medians over seeds."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.dataset.manifest import Manifest
from scripts.compare.study import Study, Trial
from scripts.train.loop import MOST_SKIPPED
from scripts.train.record import is_run, read_run

Point = tuple[float, float]


@dataclass(frozen=True)
class Result:
    """A run that is over: its evaluations, {step, tokens, val_loss, test_loss, seconds}, the last at its last step
    unless it diverged. tokens: trained on by then, padding of short samples counted."""

    trial: Trial
    evaluations: Sequence[dict]
    diverged: bool = False
    code: str = ""

    def final(self, split: str) -> float:
        """The last loss on `val` or `test`; infinite where the run diverged, so that it is the worst."""
        loss = math.inf if self.diverged else self.evaluations[-1][f"{split}_loss"]
        return loss if math.isfinite(loss) else math.inf

    @property
    def seconds(self) -> float:
        return self.evaluations[-1]["seconds"]

    @property
    def seconds_per_step(self) -> float:
        return self.seconds / self.evaluations[-1]["step"]

    def points(self, axis: str, split: str = "test") -> list[Point]:
        """(step, tokens or seconds, loss) of every evaluation."""
        return [(line[axis], line[f"{split}_loss"]) for line in self.evaluations]


def read_result(trial: Trial) -> Result | None:
    """What the trial's folder says, None if the run is not over.

    It has diverged when it ended as scripts.train ends it, after so many updates in a row that were not made. That
    metrics.jsonl tells, whatever became of the process after; a loss that is not finite at the last step counts as
    much.
    """
    if not is_run(trial.folder):
        return None
    run = read_run(trial.folder)
    skipped = [line.get("skipped") for line in run.training[-MOST_SKIPPED:]]
    code = run.facts.get("code_version", "")
    tokens = _tokens_of_a_step(trial)
    evaluations = [line | {"tokens": tokens * line["step"]} for line in run.evaluations]
    if len(skipped) == MOST_SKIPPED and all(skipped):
        return Result(trial, evaluations, True, code)
    if not run.evaluations or run.evaluations[-1]["step"] != trial.config.train.steps:
        return None
    losses = [run.evaluations[-1][f"{split}_loss"] for split in ("val", "test")]
    return Result(trial, evaluations, not all(map(math.isfinite, losses)), code)


def _tokens_of_a_step(trial: Trial) -> int:
    """G k T."""
    length = Manifest.load(trial.config.data.dataset()).sequence_length
    return trial.config.train.groups * trial.config.selection.picks * length


class Results:
    """The runs of a study that are over, by (arm, learning rate, seed)."""

    def __init__(self, study: Study, found: Iterable[Result] = ()):
        self.study = study
        self._found = {}
        for result in found:
            self.add(result)

    def add(self, result: Result) -> None:
        trial = result.trial
        self._found[trial.arm, trial.learning_rate, trial.seed] = result

    def of(self, arm: str, learning_rate: float, seed: int) -> Result | None:
        return self._found.get((arm, learning_rate, seed))

    def __iter__(self):
        return iter(self._found.values())

    def tuning(self, arm: str) -> dict[float, float]:
        """Final val loss by learning rate, on the first seed, of the runs that are over."""
        found = {rate: self.of(arm, rate, self.study.seeds[0]) for rate in self.study.learning_rates}
        return {rate: result.final("val") for rate, result in found.items() if result}

    def chosen(self, arm: str) -> float | None:
        """The learning rate of the lowest final val loss so far; None where there is none, or all diverged."""
        losses = {rate: loss for rate, loss in self.tuning(arm).items() if loss < math.inf}
        return min(losses, key=losses.get, default=None)

    def tuned(self, arm: str) -> list[Result]:
        """The arm's runs at its chosen learning rate, in the order of the seeds."""
        rate = self.chosen(arm)
        found = [self.of(arm, rate, seed) for seed in self.study.seeds] if rate is not None else []
        return [result for result in found if result]

    def total_seconds(self) -> float | None:
        """What a run of the reference takes: the median over its seeds."""
        seconds = [result.seconds for result in self.tuned(self.study.reference) if not result.diverged]
        return statistics.median(seconds) if seconds else None

    def level(self) -> float | None:
        """The reference's final test loss: the median over its seeds."""
        losses = [result.final("test") for result in self.tuned(self.study.reference)]
        level = statistics.median(losses) if losses else math.inf
        return level if level < math.inf else None


@dataclass(frozen=True)
class Spread:
    """Median, lowest and highest over seeds; infinite stands for `diverged` or `not reached`, worse than any number."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        return min(self.values)

    @property
    def high(self) -> float:
        return max(self.values)

    def __truediv__(self, total: float) -> "Spread":
        return Spread(tuple(value / total for value in self.values))


def to_reach(results: Sequence[Result], level: float, axis: str) -> Spread:
    """Steps or seconds until the test loss is at `level`, over seeds."""
    return Spread(tuple(math.inf if r.diverged else crossing(r.points(axis), level) for r in results))


def crossing(points: Sequence[Point], level: float) -> float:
    """The first x at which y is down to `level`, linear between points; infinite if it never is."""
    before = None
    for x, y in points:
        if y <= level:
            if before is None:
                return x
            return before[0] + (x - before[0]) * (before[1] - level) / (before[1] - y)
        before = (x, y) if math.isfinite(y) else None
    return math.inf


def at(points: Sequence[Point], x: float) -> tuple[float, bool]:
    """y at x, linear between points, and whether the points get that far: else y is the last one's."""
    before = points[0]
    for point in points:
        if point[0] >= x:
            (x0, y0), (x1, y1) = before, point
            return (y1 if x1 == x0 else y0 + (y1 - y0) * (x - x0) / (x1 - x0)), True
        before = point
    return before[1], False


def at_seconds(results: Sequence[Result], seconds: float) -> tuple[Spread, int]:
    """Test loss after so many seconds, over seeds, and how many of the runs were over before."""
    found = [(math.inf, True) if result.diverged else at(result.points("seconds"), seconds) for result in results]
    return Spread(tuple(loss for loss, _ in found)), sum(not spans for _, spans in found)
