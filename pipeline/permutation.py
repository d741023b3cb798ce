"""Permutations that depend on a key alone, in every version of numpy."""

from functools import lru_cache

import numpy as np

SHARDS, WINDOW, PASS, LOT, PLACE = range(5)  # second in every key: keeps the uses of one seed apart


def permutation(n: int, *key: int) -> np.ndarray:
    """A permutation of range(n), int64, that depends on n and `key` alone.

    Sorts raw random bits instead of calling Generator.permutation: numpy promises the same bits in every
    version, but not the same permutation.
    """
    bits = np.random.PCG64(np.random.SeedSequence(key)).random_raw(n)
    return np.argsort(bits, kind="stable")


@lru_cache(maxsize=4)  # consecutive steps share a pass
def pass_order(samples: int, seed: int, number: int) -> np.ndarray:
    """The order in which pass `number` goes over a split of `samples` samples."""
    return permutation(samples, seed, PASS, number)
