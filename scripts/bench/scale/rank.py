"""One rank of a run on random tokens, in the arms that scripts/configs/selection offers.

k picks and N candidates of a group, n drawn, g groups of this rank, T tokens, F n-grams of a sample.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.build import build_gpt2, recompute
from model.gpt2 import GPT2Config
from model.optimizer import build_adamw, clip_gradient
from model.world import World, sum_over_ranks
from scripts.train.options import read_config
from selection.choice import Choice
from selection.prefilters.build import build_prefilter
from selection.prefilters.ngrams import ngram_features
from selection.selector import Selector
from selection.settings import Selection, replaced, without_unread

PRESETS = Path(__file__).parents[2] / "configs" / "selection"
ARMS = ("regular", "importance", "amortised", "exact")
KNOWN = 128  # samples of the target, and of the pool, that a prefilter starts from
RATE = 1e-4


def arm(name: str, picks: int, **changes: object) -> Selection:
    """The settings of a preset for k picks: N, m and what is drawn grow with k."""
    settings = read_config(PRESETS / f"{name}.toml").selection
    for key in ("candidates", "direction.samples", "amortise.drawn"):
        value = settings
        for part in key.split("."):
            value = getattr(value, part)
        settings = replaced(settings, key, value * picks // settings.picks)
    for key, value in changes.items():
        settings = replaced(settings, key.replace("__", "."), value)
    return without_unread(replaced(settings, "picks", picks))


class Rank:
    """A sharded GPT-2, its optimizer and its Selector. groups: of a step on this rank."""

    def __init__(
        self, world: World, shape: GPT2Config, settings: Selection, dtype: str, recomputes: bool, groups: int = 1
    ):
        self.world, self.settings = world, settings
        self.model = build_gpt2(shape, world.mesh, dtype, seed=0)
        if recomputes:
            recompute(self.model)
        self.optimizer = build_adamw(self.model, RATE, weight_decay=0.1)
        drawn = np.random.default_rng(world.rank)
        V, T1 = shape.vocab_size, shape.sequence_length + 1
        tokens_gnT1 = drawn.integers(V, size=(groups, settings.drawn, T1))
        self._tokens_gnT1 = torch.from_numpy(tokens_gnT1)
        # Of half the vocabulary, so that a prefilter can tell it from the pool and is trusted.
        share = -(-settings.direction.samples // world.size)
        self._target_mT1 = torch.from_numpy(drawn.integers(max(1, V // 2), size=(share, T1)))
        prefilter, self._features_gnF = None, None
        if settings.prefilter:
            known = np.random.default_rng(0)
            samples = (known.integers(most, size=(KNOWN, T1)) for most in (max(1, V // 2), V, V))
            prefilter = build_prefilter(settings, *map(ngram_features, samples), groups=groups * world.size)
            self._features_gnF = np.stack([ngram_features(tokens_nT1) for tokens_nT1 in tokens_gnT1])
        self.selector = Selector(
            settings,
            self.model,
            self.optimizer,
            groups=groups * world.size,
            batch=self._batch,
            target=lambda step: self._batch(self._target_mT1),
            prefilter=prefilter,
            lanes=range(world.rank, groups * world.size, world.size),
        )

    def _batch(self, tokens_NT1: Tensor) -> tuple[Tensor, Tensor]:
        return tokens_NT1[:, :-1], tokens_NT1[:, 1:]

    def choose(self, step: int) -> list[Choice]:
        return self.selector.choose(step, self._tokens_gnT1, self._features_gnF, RATE)

    def update(self, choices: list[Choice]) -> None:
        """What a step of scripts.train does once it has chosen, but for its log."""
        clip_gradient(self.model, 1.0)
        sum_over_ranks(sum(choice.loss[choice.picked].sum() for choice in choices).double())
        self.optimizer.step()
        self.optimizer.zero_grad()

    def learn(self) -> None:
        """Sends off what a scored step teaches the prefilter, and learns it."""
        self.selector.send_scores()
        self.selector.look_ahead(self._features_gnF)
