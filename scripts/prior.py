"""The prefilter of a run, with what it knows before the first score: the target text and a sample of the pool."""

import numpy as np

from pipeline.shards import Manifest, SplitReader
from selection.predictor import ngram_features
from selection.prefilter import PREFILTERS, Prefilter

# Samples of each at most: what counting them takes is then seconds, whatever the dataset.
MOST = 4096


def build_prefilter(name: str, manifest: Manifest, targets: np.ndarray) -> Prefilter:
    """Prefilter `name` of PREFILTERS, from these target samples and as many of the first of split `train`.

    Prepare has shuffled the train samples, so the first ones are a fair sample of them all, in the fewest shards.
    """
    most = min(len(targets), MOST, manifest.samples("train"))
    chosen = {"target": targets[:most], "train": manifest.sample_ids("train", np.arange(most))}
    features = [ngram_features(SplitReader(manifest, split).tokens(ids)) for split, ids in chosen.items()]
    return Prefilter(PREFILTERS[name](*features))
