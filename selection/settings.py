"""The settings of a choice: one name, and beside it tables that only some methods read.

Sections nest as in a configuration file: `[selection.direction] samples = 4` is Selection.direction.samples. A key's
name is the dotted path below `selection`, as in "direction.samples". What a method reads it says itself
(selection/methods); `unread` names what was given and does nothing.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from .methods.registry import METHODS
from .prefilters.registry import PREFILTERS


@dataclass(frozen=True)
class DirectionSettings:
    """The validation direction, for methods that aim at target samples."""

    samples: int = 16
    """m: fresh target samples per scored step, over all ranks."""
    rank: int = 0
    """r: the direction's matrices are reduced to rank r for cheaper scores; 0 keeps them exact."""
    decay: float = 0.0
    """Of the direction's running average over steps; 0 uses this step's target samples alone."""
    preconditioner: Literal["none", "adam"] = "none"
    """`adam` scores the step AdamW takes, by its second moments; the gram stays one of raw gradients."""
    targets: int = 0
    """Samples of split `target` that are used in all; 0 uses every one."""
    contrast: int = 0
    """Further candidates drawn a group whose mean gradient is taken off that of the target samples; 0: none."""


@dataclass(frozen=True)
class ScoringSettings:
    """The pass over the candidates, for methods that run the model on them."""

    parameters: Literal["all", "blocks"] = "all"
    """Parameters that count in the scores; `blocks` leaves embeddings and output head out."""
    prefix: int = 0
    """Tokens of a candidate that are scored, the picks then being trained on whole; 0 scores all."""
    memory: Literal["auto", "kept", "streamed"] = "auto"
    """`kept` assembles the picks' gradient from the pass; `streamed` keeps nothing of it, and the picks have their own
    pass; `auto` streams where scripts.train expects a kept pass not to fit the device."""


@dataclass(frozen=True)
class InteractionSettings:
    """The second-order term of the greedy rule."""

    curvature: float = 1.0
    """c: how much two alike picks count against each other; 0 makes it top-k."""
    sketch: int = 0
    """s: the gram from s x s random projections of each weight's gradient; 0 is exact."""


@dataclass(frozen=True)
class AmortiseSettings:
    """Scoring few steps and few candidates, a prefilter choosing for the rest."""

    drawn: int = 0
    """Candidates drawn a group, of which a prefilter leaves N to be scored, or k to be trained on; 0: no prefilter."""
    every: int = 1
    """S: every S-th step is scored; on those between, the prefilter chooses the picks, without scores."""
    by: Literal[(*PREFILTERS, "need")] = "predictor"  # type: ignore[valid-type]
    """Chooses among all drawn by n-grams: `predictor` learns from the scores, `importance` compares with the target,
    `need` with every cluster of it."""
    explore: float = 0.25
    """Share of a group's N scored candidates that is drawn at random instead of chosen by the prefilter."""


@dataclass(frozen=True)
class FilterSettings:
    """The choice by text alone."""

    temperature: float = 0.0
    """Noise on what the filter predicts, in standard deviations of a group's predictions; 0 takes the best."""
    when: Literal["judged", "always"] = "judged"
    """`judged`: it chooses only while it tells target text from the pool."""


@dataclass(frozen=True)
class ReferenceSettings:
    """What is known of every sample before the run."""

    file: str = ""
    """Made by `scripts.prepare losses` for `rho_loss`, by `scripts.prepare likeness` for `sbert`."""


@dataclass(frozen=True)
class NeedSettings:
    """A filter for every cluster of the target text, with shares that follow the clusters' falling losses."""

    clusters: int = 4
    """Clusters of the target samples, at most; 1 is a single filter."""
    samples: int = 24
    """Target samples whose losses are watched, over all clusters."""
    every: int = 16
    """Steps from one measurement of their losses to the next."""
    window: int = 32
    """Steps over which the fall of a loss is taken."""


@dataclass(frozen=True)
class AutoSettings:
    """Turns of plain training, the static filter and the filter for every cluster, until one is ahead."""

    block: int = 2
    """Steps of a block in the first trial; they double from trial to trial."""


@dataclass(frozen=True)
class Selection:
    """How the picks are chosen."""

    method: Literal[tuple(METHODS)] = "greats"  # type: ignore[valid-type]
    """What ranks the candidates; `regular` draws `picks` candidates a group and trains on all of them."""
    picks: int = 8
    """k: picks per group."""
    candidates: int = 16
    """N: candidates per group that the method chooses from."""
    pool: Literal["group", "step"] = field(default="group", kw_only=True)
    """Who compete for picks where steps are scored: a `group`'s N for k, or all N G of a `step` for k G."""
    direction: DirectionSettings = field(default_factory=DirectionSettings)
    scoring: ScoringSettings = field(default_factory=ScoringSettings)
    interaction: InteractionSettings = field(default_factory=InteractionSettings)
    filter: FilterSettings = field(default_factory=FilterSettings)
    reference: ReferenceSettings = field(default_factory=ReferenceSettings)
    need: NeedSettings = field(default_factory=NeedSettings)
    auto: AutoSettings = field(default_factory=AutoSettings)
    amortise: AmortiseSettings = field(default_factory=AmortiseSettings)

    def check(self) -> None:
        """ValueError for a value out of its range, or values that do not fit together."""
        direction, amortise, kind = self.direction, self.amortise, METHODS[self.method]
        for key, value, least in (
            ("picks", self.picks, 1),
            ("direction.samples", direction.samples, 1),
            ("direction.rank", direction.rank, 0),
            ("direction.targets", direction.targets, 0),
            ("direction.contrast", direction.contrast, 0),
            ("scoring.prefix", self.scoring.prefix, 0),
            ("interaction.sketch", self.interaction.sketch, 0),
            ("filter.temperature", self.filter.temperature, 0),
            ("need.clusters", self.need.clusters, 1),
            # `auto` weighs differences between arms by their errors over samples: of one there are none.
            ("need.samples", self.need.samples, 2 if self.method == "auto" else 1),
            ("need.every", self.need.every, 1),
            ("need.window", self.need.window, self.need.every),
            ("auto.block", self.auto.block, 1),
            ("amortise.drawn", amortise.drawn, 0),
            ("amortise.every", amortise.every, 1),
        ):
            if value < least:
                raise ValueError(f"selection.{key} must be at least {least}, not {value}")
        if not 0 <= direction.decay < 1:
            raise ValueError(f"selection.direction.decay must be at least 0 and below 1, not {direction.decay}")
        if not 0 <= amortise.explore <= 1:
            raise ValueError(f"selection.amortise.explore must be from 0 to 1, not {amortise.explore}")
        if kind.chooses and self.picks > self.candidates:
            raise ValueError(f"selection.picks ({self.picks}) cannot exceed selection.candidates ({self.candidates})")
        if 0 < amortise.drawn < self.candidates:
            raise ValueError(
                f"selection.amortise.drawn ({amortise.drawn}) must be at least selection.candidates "
                f"({self.candidates}), the number that is scored"
            )
        if kind.knows and not self.reference.file:
            raise ValueError(
                f"selection.reference.file is missing: method {self.method} reads a number of every sample from it, "
                "made by scripts.prepare losses (for rho_loss) or scripts.prepare likeness (for sbert)"
            )
        if idle := unread(self):
            key, value = next(iter(idle.items()))
            raise ValueError(f"selection.{key} = {value} does nothing: {why_unread(self, key)}")

    @property
    def amortised(self) -> bool:
        """Whether a prefilter stands before the scoring."""
        return self.amortise.drawn > 0

    @property
    def prefilter(self) -> str | None:
        """The name of what ranks candidates by their text, where anything does: one of PREFILTERS, or of those
        that a method brings along."""
        return self.amortise.by if self.amortised else METHODS[self.method].filter

    @property
    def watches(self) -> bool:
        """Whether the prefilter wants the losses of some target samples now and then."""
        return self.prefilter in ("need", "auto")

    @property
    def drawn(self) -> int:
        """n: candidates drawn a group and step."""
        if not METHODS[self.method].chooses:
            return self.picks
        return (self.amortise.drawn or self.candidates) + self.direction.contrast

    @property
    def aims(self) -> bool:
        """Whether target samples are run through the model."""
        return METHODS[self.method].aims


def keys(settings: Any = None, prefix: str = "") -> dict[str, Any]:
    """Every key below `selection` with its value, by default the defaults."""
    settings = Selection() if settings is None else settings
    found = {}
    for entry in dataclasses.fields(settings):
        value = getattr(settings, entry.name)
        if dataclasses.is_dataclass(value):
            found |= keys(value, f"{prefix}{entry.name}.")
        else:
            found[prefix + entry.name] = value
    return found


def read_by(settings: Selection) -> frozenset[str]:
    """The keys that are read under these settings."""
    kind = METHODS[settings.method]
    if kind.passes == "none":
        return kind.reads
    if not settings.amortised:
        return kind.reads | {"amortise.drawn"}
    # A prefilter starts from the target text, whether the method itself aims at it or not.
    read = kind.reads | {f"amortise.{key}" for key in ("drawn", "every", "by", "explore")} | {"direction.targets"}
    return read | METHODS["need"].reads if settings.amortise.by == "need" else read


def idle(settings: Selection) -> set[str]:
    """The keys that nothing reads under these settings, at their defaults or not."""
    return keys().keys() - read_by(settings)


def unread(settings: Selection) -> dict[str, Any]:
    """Keys that are not at their defaults, and that nothing reads."""
    defaults, given = keys(), keys(settings)
    return {key: given[key] for key in given if key in idle(settings) and given[key] != defaults[key]}


def why_unread(settings: Selection, key: str) -> str:
    """A sentence's second half: why `key` does nothing under these settings, and what to do."""
    name = settings.method
    if METHODS[name].passes != "none" and (key.startswith("amortise.") or key == "direction.targets"):
        return f"method {name} reads it only with selection.amortise.drawn above 0"
    if METHODS[name].passes != "none" and key in METHODS["need"].reads:
        return f"method {name} reads it only with selection.amortise.by = need"
    amortises = key.startswith("amortise.")
    others = [other for other, kind in METHODS.items() if key in kind.reads or (amortises and kind.passes != "none")]
    return f"method {name} does not read it (read by {', '.join(others)}): leave it out"


def without_unread(settings: Selection) -> Selection:
    """The same with every key that nothing reads at its default."""
    defaults = keys()
    for key in unread(settings):
        settings = replaced(settings, key, defaults[key])
    return settings


def replaced(settings: Any, key: str, value: Any) -> Any:
    """The settings with one key, a dotted path, at another value."""
    name, _, rest = key.partition(".")
    return dataclasses.replace(settings, **{name: replaced(getattr(settings, name), rest, value) if rest else value})
