"""Clusters of target samples by the words they are made of: k-means on the leading directions of their tf-idf counts.

Everything is numpy in float64 and a fixed order, so that every rank finds the same clusters.

Shapes: n samples, F n-grams of a sample, T of them unigrams, w buckets that are counted, d directions, C clusters.
"""

import numpy as np

from .features import BUCKETS, coarse

DIRECTIONS = 16
ROUNDS = 20
_FITTED = 1024  # samples that directions and centres are found from
_WORDS = 4096  # buckets that are counted: those in most samples, less those in nearly all


def cluster(features_nF: np.ndarray, clusters: int) -> np.ndarray:
    """The cluster of every sample, int64 [n], numbered from 0 by falling size; fewer where samples are alike.

    Every cluster has at least one sample. One cluster is all of them.
    """
    if clusters == 1 or len(features_nF) < 2 * clusters:
        return np.zeros(len(features_nF), dtype=np.int64)
    weights_nw = _tf_idf(coarse(features_nF[:, : (features_nF.shape[1] + 1) // 3]))
    fitted_mw = weights_nw[:: -(-len(weights_nw) // _FITTED)]
    # Right singular vectors by way of the smaller Gram matrix.
    values, left = np.linalg.eigh(fitted_mw @ fitted_mw.T)
    kept = values > 1e-9 * values[-1]
    directions_wd = (fitted_mw.T @ (left[:, kept] / np.sqrt(values[kept])))[:, ::-1][:, :DIRECTIONS]
    points_nd = weights_nw @ directions_wd
    points_nd /= np.maximum(np.linalg.norm(points_nd, axis=1, keepdims=True), 1e-12)
    return _by_size(_k_means(points_nd, clusters))


def _tf_idf(unigrams_nT: np.ndarray) -> np.ndarray:
    """Counts of the commonest words, each sample's row of norm 1, [n, w] (Salton & Buckley 1988: log tf, idf)."""
    n = len(unigrams_nT)
    present = np.zeros(BUCKETS)
    for row_T in unigrams_nT:
        present[np.unique(row_T)] += 1
    words = np.sort(np.argsort(-np.where(present > 1, present, 0), kind="stable")[:_WORDS])
    words = words[present[words] > 1]
    column = np.full(BUCKETS, -1)
    column[words] = np.arange(len(words))
    counts_nw = np.zeros((n, len(words)))
    for row, row_T in enumerate(unigrams_nT):
        columns = column[row_T]
        np.add.at(counts_nw[row], columns[columns >= 0], 1.0)
    weights_nw = np.log1p(counts_nw) * np.log(n / present[words])
    return weights_nw / np.maximum(np.linalg.norm(weights_nw, axis=1, keepdims=True), 1e-12)


def _k_means(points_nd: np.ndarray, clusters: int) -> np.ndarray:
    """Lloyd's rounds from centres far apart: each new one is the point least like those before it."""
    mean_d = points_nd.mean(0)
    centres = [points_nd[np.argmax(points_nd @ mean_d)]]
    for _ in range(1, clusters):
        nearest_n = np.max(points_nd @ np.stack(centres).T, axis=1)
        centres.append(points_nd[np.argmin(nearest_n)])
    centres_Cd = np.stack(centres)
    for _ in range(ROUNDS):
        found_n = np.argmax(points_nd @ centres_Cd.T, axis=1)
        centres_Cd = np.stack(
            [points_nd[found_n == c].sum(0) if (found_n == c).any() else centres_Cd[c] for c in range(len(centres_Cd))]
        )
        centres_Cd /= np.maximum(np.linalg.norm(centres_Cd, axis=1, keepdims=True), 1e-12)
    return np.argmax(points_nd @ centres_Cd.T, axis=1)


def _by_size(found_n: np.ndarray) -> np.ndarray:
    names, numbers, sizes = np.unique(found_n, return_inverse=True, return_counts=True)
    rank = np.empty(len(names), dtype=np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(names))
    return rank[numbers]
