"""Which samples of the held-out splits: those that steer a step, those that an evaluation measures."""

import numpy as np

from ..permutation import pass_order
from .manifest import Manifest


def target_samples(manifest: Manifest, seed: int, step: int, m: int, of: np.ndarray | None = None) -> np.ndarray:
    """The m samples of split `target` that steer `step`, out of the sample numbers `of` (or all): int64 [m].

    Steps walk through `of` in passes; each pass is a fresh permutation of it. Raises ValueError when m is more
    than one pass holds.
    """
    of = manifest.sample_ids("target", np.arange(manifest.samples("target"))) if of is None else of
    samples = len(of)
    if not 0 < m <= samples:
        raise ValueError(f"{m} target samples a step are asked for; split target of {manifest.folder} has {samples}")
    first = step * m
    passes = range(first // samples, (first + m - 1) // samples + 1)
    line = np.concatenate([pass_order(samples, seed, number) for number in passes])
    begin = first - passes[0] * samples
    return of[line[begin : begin + m]]


def evaluation_samples(manifest: Manifest, split: str, n: int) -> np.ndarray:
    """A fixed choice of n samples evenly spread over `split` (all of them if it has fewer): int64, ascending."""
    samples = manifest.samples(split)
    n = min(n, samples)
    return manifest.sample_ids(split, np.arange(n, dtype=np.int64) * samples // max(n, 1))
