"""The prefilter of a run, with what it knows before the first score: the target text and a sample of the pool."""

import numpy as np

from pipeline.dataset.manifest import Manifest
from pipeline.dataset.reader import SplitReader
from selection.prefilters.cascade import Prefilter
from selection.prefilters.need import SharedFilters
from selection.prefilters.ngrams import ngram_features
from selection.prefilters.registry import PREFILTERS
from selection.settings import Selection

# Samples of each at most: what counting them takes is then seconds, whatever the dataset.
MOST = 4096
# Further samples of the pool, for the judge to compare target samples with.
FRESH = 128


def build_prefilter(chosen: Selection, manifest: Manifest, targets: np.ndarray) -> Prefilter | SharedFilters:
    """What `chosen.prefilter` names, from these target samples and as many of the first of split `train`.

    Prepare has shuffled the train samples, so the first ones are a fair sample of them all, in the fewest shards.
    """
    train = manifest.samples("train")
    most = min(len(targets), MOST, train // 2)
    fresh = min(FRESH, train - most)
    target_nF = ngram_features(SplitReader(manifest, "target").tokens(targets[:most]))
    first = manifest.sample_ids("train", np.arange(most + fresh))
    pool_nF = ngram_features(SplitReader(manifest, "train").tokens(first))
    known = target_nF, pool_nF[:most], pool_nF[most:]
    if chosen.prefilter == "need":
        need = chosen.need
        memory = need.window // need.every + 1
        return SharedFilters(*known, clusters=need.clusters, samples=need.samples, picks=chosen.picks, memory=memory)
    return Prefilter(PREFILTERS[chosen.prefilter](*known), chosen.filter.temperature)
