"""The configuration of a run: typed sections, and what may stand in them."""

import dataclasses
import os
from collections.abc import Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from model.settings import Model
from pipeline.dataset.remote import Mirror, is_remote
from selection.settings import Selection, idle

MOST_PICKS = 1 << 15  # whose places in one order the log's int16 can tell


@dataclass(frozen=True)
class Data:
    path: str = ""
    """Dataset folder made by scripts.prepare, or where a copy of it is: http(s)://, or s3:// and others by fsspec."""
    workers: int = 2
    """Loader processes per rank; 0 reads in the training process."""
    cache: str = "~/.cache/greats"
    """Folder that shards from elsewhere are kept in, shared by the ranks of a node and by runs."""
    cache_gb: float = 50.0
    """Gigabytes of shards the cache may hold; those opened longest ago go first."""
    pipe: bool = False
    """Allow a path that runs a shell command, as 'pipe:aws s3 cp s3://bucket/data/{} -' ({}: the file's name)."""

    def dataset(self) -> Path | Mirror:
        """The dataset that `path` names, to be given to Manifest.load."""
        if not is_remote(self.path):
            return Path(self.path)
        return Mirror(self.path, Path(self.cache).expanduser(), int(self.cache_gb * 1e9), self.pipe)


@dataclass(frozen=True)
class Train:
    steps: int = 1000
    """Optimizer steps of the whole run."""
    groups: int = 2
    """G: groups of candidates per step, over all ranks; the number of ranks must divide it."""
    learning_rate: float = 6e-4
    """Highest learning rate, reached after the warmup."""
    min_learning_rate: float = 6e-5
    """Learning rate of the last step."""
    warmup_steps: int = 100
    """Steps of linear warmup."""
    weight_decay: float = 0.1
    """AdamW's decoupled decay of matrices and embeddings."""
    grad_clip: float = 1.0
    """Largest global gradient norm; 0 for no limit."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: GPUs where every rank has one of its own, else the CPU. A run may be resumed on another device."""
    replicas: int = 1
    """Copies of the model, each sharded over as many ranks, machine by machine; it divides the number of ranks."""
    timeout: float = 10.0
    """Minutes that ranks wait for each other before the run ends."""
    deterministic: bool = False
    """On GPUs: every sum in one order, so that the same run gives the same numbers; slower."""
    compile: bool = False
    """Run blocks compiled where nothing is recorded: plain passes and evaluations."""
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    """Precision of the passes; parameters and gradients stay in float32 (float64 for float64)."""
    seed: int = 0
    """Of the initial weights, the order of candidates and the target samples."""
    eval_every: int = 100
    """Steps between evaluations on `val` and `test`."""
    eval_samples: int = 256
    """Samples of each split that an evaluation measures."""
    checkpoint_every: int = 500
    """Steps between checkpoints; the last step always makes one."""
    keep_checkpoints: int = 2
    """Checkpoints kept, counted from the newest."""
    init_from: str = ""
    """What gives the first weights: a run folder (its newest checkpoint), or a GPT-2 folder of `transformers`."""
    resume: Literal["no", "yes", "auto"] = "no"
    """`yes` goes on from the newest checkpoint in the run folder, `auto` begins a run or goes on with it."""


@dataclass(frozen=True)
class Config:
    """Trains a language model and chooses what it trains on."""

    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    train: Train = field(default_factory=Train)
    selection: Selection = field(default_factory=Selection)
    out: str = ""
    """Run folder to be made (or resumed)."""

    def check(self) -> None:
        """ValueError for values that do not fit together, before anything is opened or written."""
        train = self.train
        world_size = int(os.environ.get("WORLD_SIZE", 1))  # torchrun's
        if not self.data.path:
            raise ValueError("data.path is missing: give the dataset folder, as in --data.path data/demo")
        if not self.out:
            raise ValueError("out is missing: give the run folder, as in --out runs/demo")
        at_least_one = {
            "train.steps": train.steps,
            "train.groups": train.groups,
            "train.eval_every": train.eval_every,
            "train.eval_samples": train.eval_samples,
            "train.checkpoint_every": train.checkpoint_every,
            "train.keep_checkpoints": train.keep_checkpoints,
            "train.replicas": train.replicas,
        }
        for key, value in at_least_one.items():
            if value < 1:
                raise ValueError(f"{key} must be at least 1, not {value}")
        if train.timeout <= 0:
            raise ValueError(f"train.timeout must be above 0 minutes, not {train.timeout}")
        self.model.check()
        self.selection.check()
        if train.groups % world_size:
            raise ValueError(f"train.groups ({train.groups}) must be a multiple of the number of ranks ({world_size})")
        if self.selection.pool == "step" and train.groups * self.selection.picks > MOST_PICKS:
            raise ValueError(
                f"selection.pool step: train.groups x selection.picks is {train.groups * self.selection.picks}, and "
                f"the log numbers at most {MOST_PICKS} picks of one step: choose pool group"
            )
        if world_size % train.replicas:
            raise ValueError(f"train.replicas ({train.replicas}) must divide the number of ranks ({world_size})")

    def as_dict(self) -> dict:
        """The sections as plain values."""
        return dataclasses.asdict(self)

    def differences(self, saved: dict, may_change: Set[str] | None = None) -> list[str]:
        """What differs from `saved` and may not (by default, in a run that is resumed), as 'key was A, is B'.

        Keys of the selection that nothing reads do not count: they may have had another default then.
        """
        may_change = MAY_CHANGE if may_change is None else may_change
        unread = {f"selection.{key}" for key in idle(self.selection)}
        now, before = flat(self.as_dict()), flat(saved)
        return [
            f"{name} was {before.get(name)}, is {value}"
            for name, value in now.items()
            if name not in may_change | unread | {"out"} and before.get(name) != value
        ]


def flat(table: dict, prefix: str = "") -> dict:
    """Nested tables as one, by dotted names."""
    found = {}
    for key, value in table.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


# What a resumed run may change: nothing here touches the candidates, the picks or the updates of the steps done.
# (Another `train.steps` bends the learning rate of the steps to come.)
MAY_CHANGE = {
    "data.path",  # the manifest's checksum is compared instead
    "data.workers",
    "data.cache",
    "data.cache_gb",
    "data.pipe",
    "train.replicas",  # as the number of ranks
    "train.device",  # the steps to come are rounded as the other device does it
    "train.compile",  # or as the compiler does
    "train.deterministic",
    "train.timeout",
    "train.steps",
    "train.eval_every",
    "train.eval_samples",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.resume",
}
