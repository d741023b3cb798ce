"""What the prefilter of a run knows before the first score: the target text and a sample of the pool."""

import numpy as np

from pipeline.dataset.manifest import Manifest
from pipeline.dataset.reader import SplitReader
from selection.prefilters.ngrams import ngram_features

# Samples of each at most: what counting them takes is then seconds, whatever the dataset.
MOST = 4096
# Samples of the pool at least: text of one cluster among few target samples is held against all of it.
FEWEST = 1024
# Further samples of the pool, for the judge to compare target samples with.
FRESH = 128


def known_features(manifest: Manifest, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of these target samples, of as many of the first of split `train` but FEWEST at least, and of further
    ones of it.

    Prepare has shuffled the train samples, so the first ones are a fair sample of them all, in the fewest shards.
    """
    train = manifest.samples("train")
    most = min(len(targets), MOST, train // 2)
    pool = min(max(most, FEWEST), train // 2)
    fresh = min(FRESH, train - pool)
    target_nF = ngram_features(SplitReader(manifest, "target").tokens(targets[:most]))
    first = manifest.sample_ids("train", np.arange(pool + fresh))
    pool_nF = ngram_features(SplitReader(manifest, "train").tokens(first))
    return target_nF, pool_nF[:pool], pool_nF[pool:]
