"""What a comparison runs: the study file's arms, learning rates and seeds, and the run that each of them makes."""

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.dataset.manifest import Manifest
from scripts.train.config import Config, flat
from scripts.train.options import NO_SETTINGS, fill, load_toml, without_idle
from scripts.train.record import is_run, read_run

# What no arm may set, since every run is given it by the comparison.
GIVEN = {"out", "data.path", "train.learning_rate", "train.min_learning_rate", "train.seed", "train.resume"}
# What may differ in a run that is there already: nothing here touches what is measured. (A resumed run of its own may
# be given more steps or other evaluations; one of a comparison would no longer be comparable.)
MAY_DIFFER = {
    "data.path",  # the manifest's checksum is compared instead
    "data.workers",
    "data.cache",
    "data.cache_gb",
    "data.pipe",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.resume",
}
_ARM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,23}")  # a folder's name and a column of a table


@dataclass(frozen=True)
class Trial:
    """One run: an arm at a learning rate and a seed."""

    arm: str
    learning_rate: float
    seed: int
    config: Config

    @property
    def folder(self) -> Path:
        return Path(self.config.out)

    @property
    def name(self) -> str:
        return f"{self.arm}/{self.folder.name}"

    def beside(self, suffix: str) -> Path:
        """A file next to the run folder, which itself must not exist before the run."""
        return self.folder.with_name(self.folder.name + suffix)


@dataclass(frozen=True)
class Study:
    """Arms by name, the first of them the reference; every one is tuned over the learning rates on the first seed."""

    paths: tuple[Path, ...]
    arms: dict[str, Config]
    learning_rates: tuple[float, ...]
    seeds: tuple[int, ...]
    out: Path
    ranks: int = 1

    @property
    def reference(self) -> str:
        return next(iter(self.arms))

    def trial(self, arm: str, learning_rate: float, seed: int) -> Trial:
        """The lowest learning rate keeps its ratio to the highest."""
        config = self.arms[arm]
        lowest = learning_rate * config.train.min_learning_rate / config.train.learning_rate
        train = dataclasses.replace(
            config.train,
            learning_rate=learning_rate,
            min_learning_rate=float(f"{lowest:.12g}"),
            seed=seed,
            resume="no",
        )
        out = self.out / arm / f"lr-{scientific(learning_rate)}-seed-{seed}"
        return Trial(arm, learning_rate, seed, dataclasses.replace(config, train=train, out=str(out)))

    def trials(self) -> list[Trial]:
        """All that this study may come to run."""
        return [self.trial(arm, rate, seed) for seed in self.seeds for rate in self.learning_rates for arm in self.arms]

    def check(self) -> None:
        """ValueError for what cannot run, and for run folders that are there already with other settings."""
        for arm, config in self.arms.items():
            self.trial(arm, self.learning_rates[0], self.seeds[0]).config.check()
            if config.train.groups % self.ranks:
                raise ValueError(
                    f"{arm}: train.groups ({config.train.groups}) must be a multiple of --ranks {self.ranks}"
                )
        manifest = Manifest.load(self.arms[self.reference].data.dataset())
        for trial in self.trials():
            if is_run(trial.folder):
                _refuse_other(trial, {"manifest_sha256": manifest.sha256, "world_size": self.ranks})


def scientific(rate: float) -> str:
    """The shortest that tells it from any other: 6e-04, 1.5e-03."""
    return np.format_float_scientific(rate, trim="-", exp_digits=2)


def read_study(
    paths: Sequence[Path],
    out: Path,
    names: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    data_path: str = "",
    ranks: int = 1,
) -> Study:
    """The study of some files, the last of which wins: a run's configuration with a table [compare] and tables
    [arms.NAME] of overrides, of which all files' count."""
    base, base_keys, tables = Config(), {}, {}
    for path in paths:
        table = load_toml(path)
        tables |= {name: (_together(tables.get(name), table.pop(name)), path) for name in NO_SETTINGS if name in table}
        base, base_keys = fill(base, table, str(path)), base_keys | flat(table)
    base = dataclasses.replace(base, data=dataclasses.replace(base.data, path=data_path or base.data.path))
    arms, path = tables.get("arms", ({}, paths[-1]))
    if not isinstance(arms, dict) or not arms:
        raise ValueError(f"{path} has no arms: give tables of overrides, as in [arms.regular]")
    for name in names:
        if name not in arms:
            raise ValueError(f"unknown arm {name}: {path} has {', '.join(arms)}")
    for what, values in (("--arms", names), ("--seeds", seeds)):
        if len(set(values)) < len(values):
            raise ValueError(f"{what} names one of them twice: {' '.join(map(str, values))}")
    if not seeds:
        raise ValueError("--seeds names none: give at least one")
    if ranks < 1:
        raise ValueError(f"--ranks must be at least 1, not {ranks}")
    filled = {name: _arm(base, base_keys, name, overrides, path) for name, overrides in arms.items()}
    chosen = {name: filled[name] for name in names or filled}
    rates = _learning_rates(*tables.get("compare", ({}, paths[-1])))
    return Study(tuple(paths), chosen, rates, tuple(seeds), out, ranks)


def _together(before: tuple[dict, Path] | None, table: dict) -> dict:
    """The entries of an earlier file's table, and those of a later one's, which win."""
    both = before is not None and isinstance(before[0], dict) and isinstance(table, dict)
    return before[0] | table if both else table


def _arm(base: Config, base_keys: dict, name: str, overrides: dict, path: Path) -> Config:
    """The arm's overrides over the base, as those of a second file; what the arm's method does not read of the base is
    left out, while all that the arm gives has to do something."""
    where = f"[arms.{name}] of {path}"
    if not _ARM.fullmatch(name):
        raise ValueError(f"arms.{name} in {path}: an arm's name is at most 24 letters, digits, dots, - and _")
    if not isinstance(overrides, dict):
        raise ValueError(f"arms.{name} in {path} must be a table, {where}")
    keys = flat(overrides)
    if given := [key for key in keys if key in GIVEN]:
        raise ValueError(f"{where} sets {given[0]}, which the comparison gives to every run")
    config = fill(base, overrides, where)
    try:
        return without_idle(config, {"the file": base_keys}, frozenset(keys), "the arm")
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _learning_rates(table: dict, path: Path) -> tuple[float, ...]:
    if not isinstance(table, dict) or set(table) - {"learning_rates"}:
        raise ValueError(f"[compare] in {path} must be a table of learning_rates and nothing else")
    rates = table.get("learning_rates")
    if not isinstance(rates, list) or not rates:
        raise ValueError(f"[compare] in {path} needs learning_rates, a list of at least one number")
    for rate in rates:
        if type(rate) not in (int, float) or not 0 < rate < math.inf:
            raise ValueError(f"compare.learning_rates in {path} must be numbers above 0, not {rate!r}")
    if len(set(rates)) < len(rates):
        raise ValueError(f"compare.learning_rates in {path} names one of them twice: {rates}")
    return tuple(sorted(map(float, rates)))


def _refuse_other(trial: Trial, run: dict) -> None:
    saved = read_run(trial.folder)
    differing = trial.config.differences(saved.settings.as_dict(), MAY_DIFFER)
    facts = saved.facts
    differing += [f"{key} was {facts.get(key)}, is {value}" for key, value in run.items() if facts.get(key) != value]
    if differing:
        raise ValueError(f"{trial.folder} is a run with other settings, choose another --out: {'; '.join(differing)}")
