"""The prefilter that settings name, from what it knows before the first score."""

from typing import Any

import numpy as np

from .cascade import Prefilter
from .need import SharedFilters
from .registry import PREFILTERS


def build_prefilter(
    settings: Any, target_nF: np.ndarray, pool_nF: np.ndarray, fresh_pF: np.ndarray
) -> Prefilter | SharedFilters | None:
    """settings: a selection.settings.Selection; None where its choice needs no text.

    target_nF, pool_nF: features of the target samples and of as many of the pool; fresh_pF: of further ones of it.
    """
    known, need = (target_nF, pool_nF, fresh_pF), settings.need
    if settings.prefilter is None:
        return None
    if settings.prefilter == "need":
        memory = need.window // need.every + 1
        return SharedFilters(*known, clusters=need.clusters, samples=need.samples, picks=settings.picks, memory=memory)
    return Prefilter(PREFILTERS[settings.prefilter](*known), settings.filter.temperature)
