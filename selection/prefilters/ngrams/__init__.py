"""The n-grams of samples, and the clusters that samples fall into by their words."""

from .clusters import cluster
from .features import BUCKETS, count_ngrams, ngram_features

__all__ = ["BUCKETS", "cluster", "count_ngrams", "ngram_features"]
