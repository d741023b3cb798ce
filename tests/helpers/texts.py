"""Made-up text as tokens, of topics that differ in their words."""

import numpy as np


def topic(seed: int, samples: int, words: range) -> np.ndarray:
    """Tokens [samples, 33] of these words and of some that every text has."""
    draw = np.random.default_rng(seed)
    tokens = draw.choice(np.array(words), (samples, 33))
    return np.where(draw.random(tokens.shape) < 0.3, draw.integers(0, 10, tokens.shape), tokens)
