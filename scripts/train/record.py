"""What a run folder says of its run: the one reader of config.toml, metrics.jsonl and ended.json.

`RunFolder` (scripts/train/run_folder.py) writes them; where the rows of selection/ and the checkpoints are read, that
is done by selection.log and model.checkpoint.
"""

import functools
import json
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from scripts.train.config import Config
from scripts.train.options import read_config

CONFIG, METRICS, ENDED = "config.toml", "metrics.jsonl", "ended.json"


@dataclass(frozen=True)
class Ended:
    """How a run ended, after `step` steps. `why`: the signal that stopped it, or the error it failed by."""

    how: Literal["finished", "stopped", "failed"]
    step: int
    why: str | None = None

    def __str__(self) -> str:
        by = {"finished": "", "stopped": f" by {self.why}", "failed": f": {self.why}"}[self.how]
        return f"{self.how} after {self.step} steps{by}"


@dataclass
class RunRecord:
    """A run as its folder tells it. `problems`: sentences on what is missing or damaged; the rest is there all the
    same. `ended`: None of a run that is still going, or was killed."""

    folder: Path
    config: dict  # config.toml as it stands
    training: list[dict] = field(default_factory=list)  # metrics.jsonl, a line per step
    evaluations: list[dict] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    ended: Ended | None = None

    @property
    def name(self) -> str:
        return self.folder.name or str(self.folder.resolve().name)

    @property
    def facts(self) -> dict:
        """What config.toml says beside the settings: manifest_sha256, world_size, code_version."""
        return self.config.get("run", {})

    @functools.cached_property
    def settings(self) -> Config:
        """The configuration with its types and defaults. ValueError names a key that is none, or of a wrong type."""
        return read_config(self.folder / CONFIG)

    @property
    def ending(self) -> str:
        return str(self.ended) if self.ended else "still going or killed"


def is_run(folder: Path) -> bool:
    """Whether the folder is that of a run, which has begun."""
    return (folder / CONFIG).is_file()


def read_run(folder: Path) -> RunRecord:
    """Reads a run folder. ValueError if it is none."""
    record = RunRecord(folder, _config(folder))
    try:
        for number, line in enumerate(whole_lines(folder / METRICS), 1):
            try:
                values = json.loads(line)
                (record.evaluations if "val_loss" in values else record.training).append(values)
            except (json.JSONDecodeError, TypeError):
                record.problems.append(f"line {number} of {METRICS} cannot be read and is left out")
    except FileNotFoundError:
        record.problems.append(f"there is no {METRICS}: losses and times are not known")
    try:
        record.ended = Ended(**json.loads((folder / ENDED).read_text()))
    except FileNotFoundError:
        pass
    except (json.JSONDecodeError, TypeError):
        record.problems.append(f"{ENDED} cannot be read: how the run ended is not known")
    return record


def whole_lines(path: Path) -> list[str]:
    """The lines that have an end: half of one may follow, of a run still writing or killed while it was."""
    return path.read_text().split("\n")[:-1]


def _config(folder: Path) -> dict:
    path = folder / CONFIG
    if not path.is_file():
        raise ValueError(f"{folder} holds no {CONFIG}, so it is no run folder: give the --out of a training run")
    try:
        config = tomllib.loads(path.read_text())
        config["selection"]["method"], config["data"]["path"]
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from None
    except KeyError as error:
        raise ValueError(f"{path} has no key {error}: it is not the configuration of a training run") from None
    return config
