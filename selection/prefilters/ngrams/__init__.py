"""The n-grams of samples, their order, how often they come again, and the clusters that samples fall into."""

from .clusters import cluster
from .features import BUCKETS, FINE_BUCKETS, coarse, count_ngrams, ngram_features
from .order import order_weights
from .repeats import PRINTS, Repeats, fingerprints

__all__ = [
    "BUCKETS",
    "FINE_BUCKETS",
    "PRINTS",
    "Repeats",
    "cluster",
    "coarse",
    "count_ngrams",
    "fingerprints",
    "ngram_features",
    "order_weights",
]
