"""Which n-grams a prefilter likes, read from its newest checkpoint and shown as text.

A prefilter keeps one weight for each bucket of hashed n-grams (selection/prefilters/predictor.py), not the n-grams. So
the text is gone over again, a bounded number of training samples, to see which n-grams fall where. One that shares its
bucket has the weight of all that is in it: those that are less than half of it are left out. They are ordered by
weight, which is what a prediction is the mean of; weight times the root of the count would list little but punctuation.
"""

import numpy as np
import pyarrow as pa
import torch
from numpy.lib.stride_tricks import sliding_window_view

from model import checkpoint
from scripts.report.format import visible
from scripts.report.texts import Texts
from scripts.train.record import RunRecord
from selection.prefilters.ngrams import BUCKETS, coarse, ngram_features

LEAST_COUNT = 20  # in the samples gone over: what comes less often is mostly names and halves of letters


def newest_weights(record: RunRecord) -> tuple[int, np.ndarray] | None:
    """The step and the weights [BUCKETS] of the newest checkpoint.

    None where there is none or, with a sentence in `record.problems`, where it cannot be read.
    """
    newest = checkpoint.latest(record.folder / "checkpoints")
    if newest is None:
        return None
    weights = torch.empty(BUCKETS)
    try:
        checkpoint.read_tensors(newest, {"prefilter.weights": weights})
        return checkpoint.read_state(newest)["step"], weights.numpy()
    except (ValueError, OSError) as error:  # a run still going may have removed it
        record.problems.append(f"no n-grams: {error}")
        return None


def liked(texts: Texts, weights: np.ndarray, top: int) -> pa.Table:
    """Of the n-grams with a weight above zero and of those below, the `top` furthest from it: end (most or least), rank
    from 1, ngram (its text), weight, count (in the samples gone over)."""
    found = by_weight(texts.spread_tokens().astype(np.int64), weights, texts.manifest.vocab_size)
    ends = {
        "most": [row for row in found if row[0] > 0][:top],
        "least": [row for row in reversed(found) if row[0] < 0][:top],
    }
    rows = [
        {"end": end, "rank": rank, "ngram": texts.decode(tokens), "weight": weight, "count": count}
        for end, ngrams in ends.items()
        for rank, (weight, count, tokens) in enumerate(ngrams, 1)
    ]
    types = {"end": pa.string(), "rank": pa.int64(), "ngram": pa.string(), "weight": pa.float64(), "count": pa.int64()}
    return pa.Table.from_pylist(rows, schema=pa.schema(types))


def side_by_side(ngrams: pa.Table) -> pa.Table:
    """The table of `liked` for showing: the most and the least liked in one row, blanks and control characters
    visible."""
    rows: dict[int, dict] = {}
    for row in ngrams.to_pylist():
        shown = {"liked": visible(row["ngram"]), "weight": row["weight"], "count": row["count"]}
        rows.setdefault(row["rank"], {}).update({f"{row['end']}_{name}": value for name, value in shown.items()})
    types = {"liked": pa.string(), "weight": pa.float64(), "count": pa.int64()}
    schema = pa.schema([(f"{end}_{name}", kind) for end in ("most", "least") for name, kind in types.items()])
    return pa.Table.from_pylist(list(rows.values()), schema=schema)


def by_weight(tokens_nT1: np.ndarray, weights: np.ndarray, vocab_size: int) -> list[tuple[float, int, list[int]]]:
    """(weight, count, tokens) of every n-gram that is counted often enough and is half its bucket, best first."""
    features_nF = coarse(ngram_features(tokens_nT1))
    in_bucket = np.bincount(features_nF.ravel(), minlength=BUCKETS)
    length = tokens_nT1.shape[1] - 1
    found = []
    for order, buckets in enumerate(np.split(features_nF, [length, 2 * length], axis=1), 1):
        from_nT = tokens_nT1[:, 1:] if order == 1 else tokens_nT1  # the first token of a sample is no unigram of it
        ngrams = sliding_window_view(from_nT, order, axis=1).reshape(-1, order)
        codes = ngrams @ vocab_size ** np.arange(order, dtype=np.int64)
        _, first, counts = np.unique(codes, return_index=True, return_counts=True)
        own = buckets.ravel()[first]
        kept = (counts >= LEAST_COUNT) & (2 * counts >= in_bucket[own])
        found += zip(weights[own[kept]].tolist(), counts[kept].tolist(), ngrams[first[kept]].tolist(), strict=True)
    return sorted(found, key=lambda row: (-row[0], row[2]))
