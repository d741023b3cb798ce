"""What the batches of a criterion do: short rollouts from the checkpoints of a run; see scripts.bench.

    python -m scripts.train ... --train.checkpoint-every 75 --train.keep-checkpoints 9 --out runs/stages
    python -m scripts.bench criterion --run runs/stages --arms importance need every-1

A criterion is an arm of a study file: its table `selection`. From every checkpoint, with the optimizer's state and
learning rate as saved, training goes on for a few steps on the k of 64 candidates that the criterion picks, beside
steps on random candidates and on each source alone. What counts is the change of the loss on a held-out split. Of each
checkpoint is told, too, how well what the criterion says of some hundred candidates parts the wanted sources from the
others, and how alike it is when it knows either half of the target text. What is found is kept in a file, and nothing
is measured twice.
"""

import dataclasses
import json
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from model.world import World
from pipeline.atomic import write_whole
from scripts.bench.checkpoints.rollout import DRAWN, Sources, measure_on, of_source, rollout, says, stream_of
from scripts.bench.checkpoints.stage import Stage
from scripts.compare.study import read_study
from scripts.train.config import Config
from scripts.train.record import read_run
from selection.methods import METHODS
from selection.settings import Selection

RANDOM, ONLY = "random", "only "  # beside the arms: batches at random, and batches of one source


@dataclass(frozen=True)
class CriterionOptions:
    """python -m scripts.bench criterion"""

    run: Path
    """A run folder with checkpoints (train.keep_checkpoints); its dataset must be where it was."""
    config: tuple[Path, ...] = (Path("scripts/configs/study.toml"),)
    """The study files whose arms are the criteria."""
    arms: tuple[str, ...] = ()
    """Names of arms; default: all. Those that know something of every sample beforehand are not among them."""
    each_source: bool = True
    """Whether there are rollouts on every source alone, too."""
    steps: tuple[int, ...] = (1, 8, 24)
    """After so many steps the loss is measured."""
    rollouts: int = 3
    """Rollouts from a checkpoint, each on other candidates."""
    split: Literal["val", "test"] = "val"
    """What the loss is measured on."""
    samples: int = 128
    """Samples of that split that a loss is the mean of."""
    out: Path | None = None
    """What is found, as JSON Lines; default: RUN/criterion.jsonl."""


@dataclass(frozen=True)
class Criterion:
    """A way to choose; `source`: batches of that one alone."""

    name: str
    settings: Selection
    source: str | None = None


class Found:
    """What was measured, by (checkpoint, criterion, rollout): lines of a file, to which every one is added at once."""

    def __init__(self, path: Path):
        self._path = path
        *lines, half = path.read_text().split("\n") if path.exists() else [""]
        if half:  # of a measurement that was killed: what is added next must not stand behind it
            write_whole(path, "".join(f"{line}\n" for line in lines))
        self._lines = {self._key(line): line["found"] for line in map(json.loads, lines)}

    @staticmethod
    def _key(line: dict) -> str:
        return json.dumps([line["checkpoint"], line["criterion"], line["settings"], line["rollout"]])

    def measure(self, stage: str, criterion: Criterion, rollout: int | None, asked: dict, by: Callable[[], Any]) -> Any:
        """What is known of it, or what `by` finds. `asked`: what else it depends on."""
        settings = dataclasses.asdict(criterion.settings) | asked
        line = {"checkpoint": stage, "criterion": criterion.name, "settings": settings, "rollout": rollout}
        if self._key(line) not in self._lines:
            self._lines[self._key(line)] = found = by()
            with open(self._path, "a") as file:
                file.write(json.dumps(line | {"found": found}) + "\n")
        return self._lines[self._key(line)]


def criteria(config: Config, options: CriterionOptions, sources: list[str]) -> list[Criterion]:
    """Random batches first, then the arms, then every source alone. ValueError for an arm that cannot be one."""
    arms = read_study(options.config, Path(config.out), options.arms, data_path=config.data.path).arms
    plain = Selection("regular", config.selection.picks)
    chosen = {name: arm.selection for name, arm in arms.items() if arm.selection.method != "regular"}
    for name, settings in chosen.items():
        if settings.drawn > DRAWN or METHODS[settings.method].knows:
            raise ValueError(f"arm {name} draws more than {DRAWN} candidates a group, or knows samples beforehand")
    found = [Criterion(RANDOM, plain), *(Criterion(name, settings) for name, settings in chosen.items())]
    return found + [Criterion(ONLY + source, plain, source) for source in sources if options.each_source]


class Measurement:
    """All that is measured on the checkpoints of a run."""

    def __init__(self, config: Config, options: CriterionOptions, world: World):
        self._config, self._options, self._world = config, options, world
        self.paths = sorted((Path(config.out) / "checkpoints").glob("step-*"))
        if not self.paths:
            raise ValueError(f"{config.out} has no checkpoints: train with train.keep_checkpoints large enough")
        self._found = Found(options.out or options.run / "criterion.jsonl")
        self._sources = Sources(self._stage(self.paths[0]))
        self.criteria = criteria(config, options, self._sources.all)

    def _stage(self, path: Path) -> Stage:
        return Stage(self._config, path, self._world)

    def changes(self, path: Path, criterion: Criterion) -> np.ndarray:
        """[rollouts, steps], what the loss changed by from the checkpoint on; NaN where text ran out."""
        steps, samples = self._options.steps, self._options.samples
        asked, found = {self._options.split: samples}, []
        before = self._found.measure(path.name, self.criteria[0], None, asked, lambda: self._loss(path))
        for number in range(self._options.rollouts):
            roll = partial(self._rollout, path, criterion, number)
            losses = self._found.measure(path.name, criterion, number, asked | {"steps": list(steps)}, roll)
            found.append([loss - before for loss in losses] + [math.nan] * (len(steps) - len(losses)))
        return np.array(found)

    def _loss(self, path: Path) -> float:
        stage = self._stage(path)
        return measure_on(stage, self._options.split, self._options.samples)()

    def _rollout(self, path: Path, criterion: Criterion, number: int) -> list[float]:
        stage = self._stage(path)
        stream = stream_of(stage, seed=self._config.train.seed + number)
        if criterion.source is not None:
            stream = of_source(stream, self._sources, criterion.source, criterion.settings.picks)
        loss = measure_on(stage, self._options.split, self._options.samples)
        return rollout(stage, criterion.settings, stream, self._options.steps, loss)

    def says(self, path: Path, criterion: Criterion) -> dict:
        said = partial(says, self._stage(path), criterion.settings, self._sources)
        return self._found.measure(path.name, criterion, None, {}, said)


def table_of_changes(changes: dict[str, dict[str, np.ndarray]], place: int, steps: int, split: str) -> Table:
    """Changes of the loss after so many steps: of random batches as they are, of the others less those of random ones
    on the same rollout; means over rollouts and their standard errors."""
    shown = Table(title=f"change of the {split} loss over {steps} steps: random batches, then others less random")
    shown.title_justify, shown.box, shown.padding = "left", box.SIMPLE_HEAD, (0, 1)
    shown.add_column("batches", no_wrap=True)
    stages = list(changes[RANDOM])
    for name in stages:
        shown.add_column(f"step {int(name.removeprefix('step-'))}", justify="right", no_wrap=True)
    for criterion, by_stage in changes.items():
        cells = []
        for stage in stages:
            values = by_stage[stage][:, place]
            cells.append(_mean(values if criterion == RANDOM else values - changes[RANDOM][stage][:, place]))
        shown.add_row(criterion, *cells)
    return shown


def _mean(values: np.ndarray) -> str:
    if not np.isfinite(values).all():
        return "-"
    error = f" ±{statistics.stdev(values) / math.sqrt(len(values)):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):+.3f}{error}"


def main(arguments: list[str]) -> int:
    options = tyro.cli(CriterionOptions, args=arguments, prog="scripts.bench criterion")
    config = dataclasses.replace(read_run(options.run).settings, out=str(options.run))
    console, world = Console(), World.join(config.train.device)
    try:
        measurement = Measurement(config, options, world)
        pairs = [(criterion, path) for path in measurement.paths for criterion in measurement.criteria]
        changes: dict = {criterion.name: {} for criterion in measurement.criteria}
        said: dict = {}
        for criterion, path in track(pairs, description="rollouts", console=console, transient=True):
            changes[criterion.name][path.name] = measurement.changes(path, criterion)
            if criterion.settings.method != "regular":
                said.setdefault(criterion.name, {})[path.name] = measurement.says(path, criterion)
    finally:
        world.leave()
    for place, steps in enumerate(options.steps):
        console.print(table_of_changes(changes, place, steps, options.split))
    console.print(table_of_says(said))
    for name in next(iter(said.values()), {}):
        console.print(
            table_of_sources(name, {criterion: by_stage[name]["auc_of"] for criterion, by_stage in said.items()})
        )
    return 0


def table_of_sources(stage: str, areas: dict[str, dict[str, float]]) -> Table:
    """One row a source, one column a criterion: the area under the ROC curve of the source against all others."""
    shown = Table(title=f"AUC by source, step {int(stage.removeprefix('step-'))}")
    shown.title_justify, shown.box, shown.padding = "left", box.SIMPLE_HEAD, (0, 1)
    shown.add_column("source", no_wrap=True)
    for criterion in areas:
        shown.add_column(criterion, justify="right")
    for source in next(iter(areas.values())):
        values = [of[source] for of in areas.values()]
        shown.add_row(source, *("-" if math.isnan(value) else f"{value:.3f}" for value in values))
    return shown


def table_of_says(said: dict[str, dict[str, dict]]) -> Table:
    shown = Table(title="AUC of wanted sources / correlation between halves of the target text")
    shown.title_justify, shown.box, shown.padding = "left", box.SIMPLE_HEAD, (0, 1)
    shown.add_column("criterion", no_wrap=True)
    for name in next(iter(said.values()), {}):
        shown.add_column(f"step {int(name.removeprefix('step-'))}", justify="right", no_wrap=True)
    for criterion, by_stage in said.items():
        shown.add_row(criterion, *(f"{found['auc']:.3f} / {found['repeats']:.3f}" for found in by_stage.values()))
    return shown
