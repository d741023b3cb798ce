"""What a selection favours: pick rate against what can be said of a sample without its score.

Every feature is cut into ten bins of about equally many candidates, so that a flat pick rate over the bins means
that the choice is blind to the feature.
"""

import pyarrow as pa

from .open_log import OpenLog

FEATURES = ("length", "position", "rarity", "loss")
BINS = 10
# The limits of the bins are the quantiles of about this many candidates: of all, in a smaller log.
ROWS_FOR_QUANTILES = 200_000

# Every span's features. The length of a document is known as far as the logged samples reach into it.
_FEATURED = """
    SELECT sample_id, share, rarity, length::FLOAT AS length, ("first" / length)::FLOAT AS position
    FROM spans JOIN (SELECT document, max("last") AS length FROM spans GROUP BY document) USING (document)"""
# Whose loss can be compared: where scores are the predictions themselves, the model has seen nothing but the picks.
_COMPARED = "is_scored AND NOT by_prediction AND isfinite(loss)"
_VALUES = f"""(
    SELECT coalesce(share, 1) AS share, is_pick, score, step, sample_id, length, position, rarity,
        CASE WHEN {_COMPARED} THEN loss END AS loss
    FROM candidates LEFT JOIN featured USING (sample_id))"""


def bias(log: OpenLog) -> pa.Table:
    """Pick rate and mean score in ten bins of every feature: feature, low, high (a bin is low <= value < high, the last
    one with its end), offered, picked, pick_rate, mean_score. Fewer bins where many candidates share one value.

    `length`: characters of the document, as far as the logged samples reach into it; `position`: where in the
    document the sample's span begins, 0 to 1; `rarity`: mean bits per token of the sample under the unigram
    distribution of the training tokens; `loss`: mean token loss at the time it was offered. A span weighs its share
    of the sample. Candidates for which a feature is unknown are left out of its bins.

    The first three are known of all that were drawn, so theirs are pick rates of prefilter and scores together. The
    bins of `loss` hold what the model measured to score it: of the others only those trained on have a loss, whose rate
    would be 1. (So there are none for regular and importance, and those of maxloss show its own rule.)
    """
    with log.temporary("featured", _FEATURED):
        limits = _limits(log)
        bins = {feature: _bin(feature, edges) for feature, edges in limits.items()}
        if not bins:
            return _table([])
        found = log.ask(f"""
            SELECT sum(share) AS offered, coalesce(sum(share) FILTER (is_pick), 0) AS picked,
                picked / offered AS pick_rate,
                sum(share * score) / (sum(share) FILTER (score IS NOT NULL)) AS mean_score,
                {", ".join(bins)}
            FROM (SELECT share, is_pick, score, {", ".join(f"{sql} AS {name}" for name, sql in bins.items())}
                  FROM {_VALUES})
            GROUP BY GROUPING SETS ({", ".join(f"({name})" for name in bins)})""").to_pylist()
    rows = []
    for feature, edges in limits.items():
        for row in sorted((row for row in found if row[feature] is not None), key=lambda row: row[feature]):
            low, high = edges[row[feature]], edges[row[feature] + 1]
            rows.append({"feature": feature, "low": low, "high": high, **{name: row[name] for name in _SUMS}})
    return _table(rows)


_SUMS = ("offered", "picked", "pick_rate", "mean_score")


def _limits(log: OpenLog) -> dict[str, list[float]]:
    """The ends of every feature's bins, ascending: least value, quantiles, greatest. Unknown ones are left out."""
    inner = [i / BINS for i in range(1, BINS)]
    every = max(1, log.ask("SELECT count(*) AS rows FROM rows_as_logged")["rows"][0].as_py() // ROWS_FOR_QUANTILES)
    asked = [f"quantile_disc({feature}, {inner}) AS {feature}" for feature in FEATURES]
    quantiles = log.ask(
        f"SELECT {', '.join(asked)} FROM {_VALUES} WHERE hash(step, sample_id) % {every} = 0"
    ).to_pylist()[0]
    ends = log.ask(f"""
        SELECT [min(length), max(length)] AS length, [min(position), max(position)] AS position,
            [min(rarity), max(rarity)] AS rarity,
            (SELECT [min(loss), max(loss)] FROM candidates WHERE {_COMPARED}) AS loss
        FROM featured""").to_pylist()[0]
    return {
        feature: [*sorted({ends[feature][0], *quantiles[feature]}), ends[feature][1]]
        for feature in FEATURES
        if quantiles[feature] is not None
    }


def _bin(feature: str, edges: list[float]) -> str:
    """SQL for the number of a value's bin, null where there is no value."""
    counted = " + ".join(f"({feature} >= {edge!r}::FLOAT)::INTEGER" for edge in edges[1:-1]) or "0"
    return f"CASE WHEN {feature} IS NOT NULL THEN {counted} END"


def _table(rows: list[dict]) -> pa.Table:
    types = {"feature": pa.string(), **dict.fromkeys(("low", "high", *_SUMS), pa.float64())}
    return pa.Table.from_pylist(rows, schema=pa.schema(types))
