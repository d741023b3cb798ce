"""The modes of `scripts.bench step` that this project offers: each is a Selector with other settings, nothing else.

N candidates, k picks, m target samples, T tokens, n candidates drawn, F n-grams of a sample, S steps of which one is
scored.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from model.gpt2 import GPT2, GPT2Config
from model.hf import CausalLM, adapt, need
from model.optimizer import build_adamw
from model.settings import Lora
from selection.methods import METHODS
from selection.prefilters.build import build_prefilter
from selection.prefilters.ngrams import ngram_features
from selection.selector import Selector
from selection.settings import AmortiseSettings, DirectionSettings, ReferenceSettings, ScoringSettings, Selection

LEARNING_RATE = 1e-4
RANK, DECAY = 8, 0.9
EVERY, DRAWN = 8, 8  # S of the amortised modes, and candidates drawn for one pick where a prefilter chooses


@dataclass
class Mode:
    """name; what one step does; its floor, in units of one sample through one of {forward, input gradient, weight
    gradient}: plain training on k is 3k; the candidates it looks at; how many steps `step` makes, of which everything
    here is the average."""

    name: str
    step: Callable[[], None]
    floor: float
    candidates: int
    steps: int = 1


class Bench:
    """What all modes share: one network, one group of random tokens, target tokens (both [8k, T + 1]).

    lora: the rank of adapters, which are all that is trained then, in a Llama in place of our GPT-2; frozen: whether
    they are.
    """

    def __init__(self, picks: int, shape: GPT2Config, lora: int = 0):
        torch.manual_seed(0)
        self.model = adapted_llama(shape, lora) if lora else GPT2(shape)
        self.frozen = lora > 0
        self.optimizer = build_adamw(self.model, LEARNING_RATE, weight_decay=0.1)
        self.k, self.N, self.T = picks, 2 * picks, shape.sequence_length
        size = (DRAWN * picks, self.T + 1)
        self.pool_nT1 = torch.randint(0, shape.vocab_size, size)
        # Of half the vocabulary, so that a prefilter can tell it from the pool and is trusted.
        self.target_nT1 = torch.randint(0, max(1, shape.vocab_size // 2), size)
        self.known_1n = torch.randn(1, len(self.pool_nT1)).numpy()

    def clear(self) -> None:
        self.model.zero_grad(set_to_none=True)

    def selector(self, settings: Selection) -> Selector:
        def target(step: int) -> tuple[Tensor, Tensor]:
            return batch(self.target_nT1[: settings.direction.samples])

        @torch.no_grad()
        def watch(places: np.ndarray) -> np.ndarray:
            return self.model(*batch(self.target_nT1[places])).double().numpy()

        target_nF, pool_nF = (ngram_features(tokens.numpy()) for tokens in (self.target_nT1, self.pool_nT1))
        prefilter = build_prefilter(settings, target_nF, pool_nF, pool_nF, groups=1)
        parts = {"groups": 1, "batch": batch, "target": target, "watch": watch, "prefilter": prefilter}
        return Selector(settings, self.model, self.optimizer, **parts)

    def mode(self, name: str, settings: Selection) -> Mode:
        """Steps of a Selector. What a prefilter takes is in: the n-grams too, which in a run the loader's processes
        count."""
        selector, tokens_1nT1 = self.selector(settings), self.pool_nT1[None, : settings.drawn]
        known_1n = self.known_1n[:, : settings.drawn] if METHODS[settings.method].knows else None
        count = period(settings)

        def steps() -> None:
            for step in range(count):
                self.clear()
                features_1nF = ngram_features(tokens_1nT1[0].numpy())[None] if settings.prefilter else None
                selector.choose(step, tokens_1nT1, features_1nF, LEARNING_RATE, known_1n)
                selector.look_ahead(features_1nF)
                selector.send_scores()

        return Mode(name, steps, floor(settings, self.T, self.frozen), settings.drawn, count)

    @property
    def plain(self) -> int:
        """The floor of plain training on k, in Mode's units."""
        return (2 if self.frozen else 3) * self.k


def period(settings: Selection) -> int:
    """Steps of which one scores, or watches losses."""
    return math.lcm(settings.amortise.every, settings.need.every if settings.watches else 1)


def batch(tokens_NT1: Tensor) -> tuple[Tensor, Tensor]:
    """(inputs, targets), each [N, T]."""
    return tokens_NT1[:, :-1], tokens_NT1[:, 1:]


def adapted_llama(shape: GPT2Config, rank: int) -> nn.Module:
    """A Llama of random weights, as many keys and values as queries, with adapters on all layers but its head."""
    need("transformers")
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.n_embd,
        intermediate_size=4 * shape.n_embd,
        num_hidden_layers=shape.n_layer,
        num_attention_heads=shape.n_head,
        max_position_embeddings=shape.sequence_length,
        tie_word_embeddings=True,
    )
    return CausalLM(adapt(LlamaForCausalLM(config), Lora(rank), torch.float32, seed=0)).train()


def floor(settings: Selection, T: int, frozen: bool = False) -> float:
    """The least that a step costs, in Mode's units. Frozen weights have no gradient, and those of adapters cost
    nothing beside their passes."""
    if frozen:
        passed = settings.candidates if METHODS[settings.method].passes == "recorded" else settings.picks
        return 2 * passed + (2 * settings.direction.samples if METHODS[settings.method].aims else 0)
    kind, plain = METHODS[settings.method], 3 * settings.picks
    watched = settings.need.samples / settings.need.every if settings.watches else 0
    if kind.passes == "none":
        return plain + watched
    scored = settings.candidates * (settings.scoring.prefix or T) / T  # in samples of full length
    if kind.passes == "forward":
        cost = scored + plain
    else:
        # Along a low-rank direction no weight gradient is multiplied out, but those of the picks.
        cost = (2 if settings.direction.rank else 3) * scored + (plain if settings.scoring.prefix else settings.picks)
    if kind.aims:
        cost += 3 * settings.direction.samples
    every = settings.amortise.every
    return ((every - 1) * plain + cost) / every + watched


def adapter_modes(bench: Bench) -> list[Mode]:
    """Those that pay where adapters alone are trained: of their small gradients no direction need be reduced."""
    k, N = bench.k, bench.N
    modes = {
        "plain, k": Selection("regular", k),
        "plain, N": Selection("regular", N),
        "greats exact, m = k": Selection("greats", k, N, DirectionSettings(k)),
        "first order exact, m = k": Selection("topk", k, N, DirectionSettings(k)),
        "running, m = k/4": Selection("topk", k, N, DirectionSettings(max(1, k // 4), 0, DECAY)),
        "running, m = k/8": Selection("topk", k, N, DirectionSettings(max(1, k // 8), 0, DECAY)),
    }
    return [bench.mode(name, settings) for name, settings in modes.items()]


def selector_modes(bench: Bench) -> list[Mode]:
    k, N, T = bench.k, bench.N, bench.T
    half, quarter, eighth, fewer = max(1, k // 2), max(1, k // 4), max(1, k // 8), k + k // 2
    running, blocks = DirectionSettings(quarter, RANK, DECAY), ScoringSettings("blocks")
    known = ReferenceSettings("made up")
    amortised, by_need = (AmortiseSettings(drawn=DRAWN * k, every=EVERY, by=by) for by in ("predictor", "need"))
    modes = {
        "plain, k": Selection("regular", k),
        "plain, N": Selection("regular", N),
        "greats exact, m = k": Selection("greats", k, N, DirectionSettings(k)),
        "first order exact, m = k": Selection("topk", k, N, DirectionSettings(k)),
        "rank 8, m = k": Selection("topk", k, N, DirectionSettings(k, RANK)),
        "rank 8 running, m = k/4": Selection("topk", k, N, running),
        "  the same, N = 1.5k": Selection("topk", k, fewer, running),
        "  the same, blocks only": Selection("topk", k, N, running, blocks),
        "  the same, both": Selection("topk", k, fewer, running, blocks),
        "  the same, prefix T/4": Selection("topk", k, N, running, ScoringSettings(prefix=max(1, T // 4))),
        "  prefix T/8, m = k/8": Selection(
            "topk", k, N, DirectionSettings(eighth, RANK, DECAY), ScoringSettings(prefix=max(1, T // 8))
        ),
        "S = 8, rank 8 running, m = k/4": Selection("topk", k, N, running, amortise=amortised),
        "S = 8 by need, m = k/4": Selection("topk", k, N, running, amortise=by_need),
        "S = 8, rank 8, m = k/2": Selection("topk", k, N, DirectionSettings(half, RANK), amortise=amortised),
        "S = 8, rank 8, m = k": Selection("topk", k, N, DirectionSettings(k, RANK), amortise=amortised),
        "opus, m = k": Selection("opus", k, N, DirectionSettings(k)),
        "momentum": Selection("momentum", k, N),
        "GradNorm, ghost": Selection("gradnorm", k, N),
        "maxloss": Selection("maxloss", k, N),
        "rho_loss": Selection("rho_loss", k, N, reference=known),
        "sbert, k of 8k": Selection("sbert", k, DRAWN * k, reference=known),
        "importance, k of 8k": Selection("importance", k, DRAWN * k),
        "match, k of 8k": Selection("match", k, DRAWN * k),
        "need, k of 8k": Selection("need", k, DRAWN * k),
    }
    return [bench.mode(name, settings) for name, settings in modes.items()]
