"""The prefilter that settings name, from what it knows before the first score."""

from typing import Any

import numpy as np

from .auto import Auto
from .cascade import Prefilter
from .match import Matching
from .need import SharedFilters
from .registry import PREFILTERS


def build_prefilter(
    settings: Any, target_nF: np.ndarray, pool_nF: np.ndarray, fresh_pF: np.ndarray, *, groups: int
) -> Prefilter | Matching | SharedFilters | Auto | None:
    """settings: a selection.settings.Selection; None where its choice needs no text.

    target_nF, pool_nF: features of the target samples and of at least as many of the pool; fresh_pF: of further ones of
    it. groups: G of a step, over all ranks.
    """
    # One filter for all target text is held against as much text of the pool, that of a cluster against all there is.
    known, all_known = (target_nF, pool_nF[: len(target_nF)], fresh_pF), (target_nF, pool_nF, fresh_pF)
    if settings.prefilter is None:
        return None
    if settings.prefilter == "match":
        return Matching(*known, picks=settings.picks, judged=_judged(settings))
    if settings.prefilter == "need":
        return _shared(settings, groups, *all_known)
    if settings.prefilter == "auto":
        both = _single(settings, "importance", *known), _shared(settings, groups, *all_known)
        return _auto(settings, groups, *both, targets=len(target_nF))
    return _single(settings, settings.prefilter, *known)


def _single(settings: Any, name: str, *known: np.ndarray) -> Prefilter:
    return Prefilter(PREFILTERS[name](*known), settings.filter.temperature, _judged(settings))


def _shared(settings: Any, groups: int, *known: np.ndarray) -> SharedFilters:
    need = settings.need
    memory = need.window // need.every + 1
    several = {"clusters": need.clusters, "samples": need.samples, "every": need.every, "memory": memory}
    return SharedFilters(*known, picks=groups * settings.picks, judged=_judged(settings), **several)


def _judged(settings: Any) -> bool:
    return settings.filter.when == "judged"


def _auto(settings: Any, groups: int, single: Prefilter, shared: SharedFilters, *, targets: int) -> Auto:
    need = settings.need
    # A training pass over a sample is a forward and a backward of twice its cost; what need watches is a forward alone.
    watching = need.samples / (3 * groups * settings.picks * need.every)
    return Auto(single, shared, targets, block=settings.auto.block, watching=watching)
