"""The configuration of a run: typed sections, and what may stand in them."""

import dataclasses
import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pipeline.dataset.remote import Mirror, is_remote
from selection.methods.registry import METHODS
from selection.prefilters.cascade import PREFILTERS


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
class Model:
    n_layer: int = 12
    """Transformer blocks."""
    n_head: int = 12
    """Attention heads; must divide n_embd."""
    n_embd: int = 768
    """Width D."""


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
    resume: bool = False
    """Go on from the newest checkpoint in the run folder."""


@dataclass(frozen=True)
class Selection:
    method: Literal[tuple(METHODS)] = "greats"  # type: ignore[valid-type]
    """How the picks are chosen; `regular` draws `picks` candidates a group and trains on all of them."""
    candidates: int = 16
    """N: candidates scored per group."""
    picks: int = 8
    """k: picks per group."""
    validation: int = 16
    """m: fresh target samples per step that make the direction, over all ranks."""
    rank: int = 0
    """r: the direction's matrices are reduced to rank r for cheaper scores; 0 keeps them exact."""
    decay: float = 0.0
    """Of the direction's running average over steps; 0 uses this step's target samples alone."""
    scored: Literal["all", "blocks"] = "all"
    """Parameters that count in the scores; `blocks` leaves embeddings and output head out."""
    prefix: int = 0
    """Tokens of a candidate that are scored, the picks then being trained on whole; 0 scores all."""
    curvature: float = 1.0
    """c: how much two alike picks count against each other in the greedy rule; 0 makes it top-k."""
    sketch: int = 0
    """s: the greedy rule's gram from s x s random projections of each weight's gradient; 0 is exact."""
    preconditioner: Literal["none", "adam"] = "none"
    """`adam` scores the step AdamW takes, by its second moments; the gram stays one of raw gradients."""
    every: int = 1
    """S: every S-th step is scored; on those between, the prefilter chooses the picks, without scores."""
    drawn: int = 0
    """Candidates drawn a group, of which the prefilter leaves N to be scored, or k to be trained on; 0 draws N."""
    prefilter: Literal[("none", *PREFILTERS)] = "none"  # type: ignore[valid-type]
    """Chooses among all drawn by n-grams: `predictor` learns from the scores, `importance` compares with the target."""
    explore: float = 0.25
    """Share of a group's N scored candidates that is drawn at random instead of chosen by the prefilter."""
    targets: int = 0
    """Samples of split `target` that are used in all; 0 uses every one."""


@dataclass(frozen=True)
class Config:
    """Trains GPT-2 and chooses what it trains on."""

    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    train: Train = field(default_factory=Train)
    selection: Selection = field(default_factory=Selection)
    out: str = ""
    """Run folder to be made (or resumed)."""

    def check(self) -> None:
        """ValueError for values that do not fit together, before anything is opened or written."""
        train, selection = self.train, self.selection
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
            "selection.picks": selection.picks,
            "selection.validation": selection.validation,
            "selection.every": selection.every,
        }
        for key, value in at_least_one.items():
            if value < 1:
                raise ValueError(f"{key} must be at least 1, not {value}")
        for key in ("rank", "prefix", "sketch", "drawn", "targets"):
            if getattr(selection, key) < 0:
                raise ValueError(f"selection.{key} must be at least 0, not {getattr(selection, key)}")
        if not 0 <= selection.decay < 1:
            raise ValueError(f"selection.decay must be at least 0 and below 1, not {selection.decay}")
        if METHODS[selection.method].scores and selection.picks > selection.candidates:
            raise ValueError(
                f"selection.picks ({selection.picks}) cannot exceed selection.candidates ({selection.candidates})"
            )
        self._check_prefilter()
        if train.groups % world_size:
            raise ValueError(f"train.groups ({train.groups}) must be a multiple of the number of ranks ({world_size})")

    def _check_prefilter(self) -> None:
        selection, scores = self.selection, METHODS[self.selection.method].scores
        if not 0 <= selection.explore <= 1:
            raise ValueError(f"selection.explore must be from 0 to 1, not {selection.explore}")
        if selection.prefilter == "none" and selection.drawn:
            raise ValueError(
                f"selection.drawn ({selection.drawn}) needs a selection.prefilter that chooses among them: "
                f"{' or '.join(PREFILTERS)}"
            )
        if selection.prefilter == "predictor" and not scores:
            raise ValueError(
                f"selection.prefilter predictor learns from scores, which method {selection.method} has none of: "
                "choose another method, or the prefilter importance"
            )
        least = max(selection.candidates, selection.picks) if scores else selection.picks
        if 0 < selection.drawn < least:
            raise ValueError(f"selection.drawn ({selection.drawn}) must be at least {least}, the number to be chosen")

    def as_dict(self) -> dict:
        """The sections as plain values."""
        return dataclasses.asdict(self)

    def differences(self, saved: dict, may_change: Collection[str] | None = None) -> list[str]:
        """What differs from `saved` and may not (by default, in a run that is resumed), as 'key was A, is B'."""
        may_change = MAY_CHANGE if may_change is None else may_change
        found = []
        for section, values in self.as_dict().items():
            for key, value in values.items() if isinstance(values, dict) else ():
                name = f"{section}.{key}"
                before = saved.get(section, {}).get(key)
                if name not in may_change and before != value:
                    found.append(f"{name} was {before}, is {value}")
        return found

    @property
    def drawn(self) -> int:
        """Candidates drawn per group and step."""
        chosen = self.selection
        return chosen.drawn or (chosen.candidates if METHODS[chosen.method].scores else chosen.picks)


# What a resumed run may change: nothing here touches the candidates, the picks or the updates of the steps done.
# (Another `train.steps` bends the learning rate of the steps to come.)
MAY_CHANGE = {
    "data.path",  # the manifest's checksum is compared instead
    "data.workers",
    "data.cache",
    "data.cache_gb",
    "data.pipe",
    "train.steps",
    "train.eval_every",
    "train.eval_samples",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.resume",
}
