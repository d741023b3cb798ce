"""A Selector at work on random tokens: a few optimizer steps, and what they left."""

import numpy as np
import torch

from model.optimizer import build_adamw, set_learning_rate
from selection.choice import Choice
from selection.methods import METHODS
from selection.prefilters.build import build_prefilter
from selection.prefilters.ngrams import ngram_features
from selection.selector import Selector
from selection.settings import Selection
from tests.helpers.recording import CONFIG, gpt2

GROUPS, RATE = 2, 1e-2


def tokens(*key: int, samples: int) -> torch.Tensor:
    """[samples, T + 1], a function of the key; small numbers are more frequent."""
    draw = np.random.default_rng(key).exponential(4.0, (samples, CONFIG.sequence_length + 1))
    return torch.from_numpy(draw.astype(np.int64) % CONFIG.vocab_size)


def batch(tokens_NT1: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return tokens_NT1[:, :-1], tokens_NT1[:, 1:]


def build(settings: Selection, seed: int = 0) -> tuple[Selector, torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = gpt2()
    optimizer = build_adamw(model, learning_rate=RATE, weight_decay=0.1)
    features = [ngram_features(tokens(kind, samples=24).numpy() // (1 + kind)) for kind in range(3)]
    prefilter = build_prefilter(settings, *features, groups=GROUPS)
    m = settings.direction.samples

    def target(step: int):
        return batch(tokens(7, step, samples=m) // 2)

    @torch.no_grad()
    def watch(places):
        return model(*batch(tokens(0, samples=24)[places])).numpy()

    parts = {"watch": watch, "groups": GROUPS, "batch": batch, "target": target, "prefilter": prefilter}
    return Selector(settings, model, optimizer, **parts), model, optimizer


def drawn(settings: Selection, step: int) -> tuple[torch.Tensor, np.ndarray]:
    """The candidates [G, n, T + 1] of a step and their features."""
    tokens_GnT1 = torch.stack([tokens(3, step, group, samples=settings.drawn) for group in range(GROUPS)])
    return tokens_GnT1, np.stack([ngram_features(tokens_nT1.numpy()) for tokens_nT1 in tokens_GnT1])


def known(settings: Selection, step: int) -> np.ndarray | None:
    """What the method is told of a step's candidates beforehand, float32 [G, n]."""
    if METHODS[settings.method].knows is None:
        return None
    return np.random.default_rng((4, step)).normal(3.0, 1.0, (GROUPS, settings.drawn)).astype(np.float32)


def take_steps(selector: Selector, model, optimizer, steps: range) -> list[list[Choice]]:
    """Whole optimizer steps; every step's choices."""
    found = []
    set_learning_rate(optimizer, RATE)
    for step in steps:
        settings = selector.settings
        found.append(selector.choose(step, *drawn(settings, step), RATE, known(settings, step)))
        selector.look_ahead(drawn(selector.settings, step + 1)[1])
        selector.send_scores()
        optimizer.step()
        optimizer.zero_grad()
    return found


def topic(seed: int, samples: int, words: range) -> np.ndarray:
    """Tokens [samples, 33] of these words, every second one the word after that before it, and of some common ones."""
    draw = np.random.default_rng(seed)
    tokens = draw.choice(np.array(words), (samples, 33))
    tokens[:, 1::2] = (tokens[:, :-1:2] - words.start + 1) % len(words) + words.start
    return np.where(draw.random(tokens.shape) < 0.3, draw.integers(0, 10, tokens.shape), tokens)
