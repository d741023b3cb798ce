"""The n-grams of samples, their order, and the clusters that samples fall into by their words."""

from .clusters import cluster
from .features import BUCKETS, FINE_BUCKETS, coarse, count_ngrams, ngram_features
from .order import order_weights

__all__ = ["BUCKETS", "FINE_BUCKETS", "cluster", "coarse", "count_ngrams", "ngram_features", "order_weights"]
