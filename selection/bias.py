"""What a selection favours: pick rate against what can be said of a sample without its score.

Every feature is cut into ten bins of about equally many candidates, so that a flat pick rate over the bins means the
choice is blind to the feature.
"""

import pyarrow as pa

from selection.attribution import OpenLog

BINS = 10

# Rows to count, by name, and the features that each has. The length of a document is known as far as the logged
# samples reach into it.
_ROWS = {
    "spans_featured": """
        SELECT share, is_pick, score, length::FLOAT AS length, ("first" / length)::FLOAT AS position
        FROM candidates JOIN spans USING (sample_id)
        JOIN (SELECT document, max("last") AS length FROM spans GROUP BY document) USING (document)""",
    "samples_featured": """
        SELECT 1.0::DOUBLE AS share, is_pick, score, rarity, CASE WHEN isfinite(loss) THEN loss END AS loss
        FROM candidates LEFT JOIN (SELECT sample_id, any_value(rarity) AS rarity FROM spans GROUP BY sample_id)
        USING (sample_id)""",
}
FEATURES = {
    "length": "spans_featured",
    "position": "spans_featured",
    "rarity": "samples_featured",
    "loss": "samples_featured",
}


def bias(log: OpenLog) -> pa.Table:
    """Pick rate and mean score in ten bins of every feature: feature, low, high (values found in the bin), offered,
    picked, pick_rate, mean_score. Fewer bins where many candidates share one value.

    `length`: characters of the document, as far as the logged samples reach into it; `position`: where in the
    document the sample's span begins, 0 to 1; `rarity`: mean bits per token of the sample under the unigram
    distribution of the training tokens; `loss`: mean token loss at the time it was offered. The first two weigh
    a span by its share of the sample. Candidates for which a feature is unknown are left out.
    """
    tables = []
    for rows, query in _ROWS.items():
        with log.temporary(rows, query):
            tables += [_bins(log, feature) for feature in FEATURES if FEATURES[feature] == rows]
    return pa.concat_tables(tables)


def _bins(log: OpenLog, feature: str) -> pa.Table:
    rows = FEATURES[feature]
    quantiles = [i / BINS for i in range(1, BINS)]
    edges = log.ask(f"SELECT quantile_disc({feature}, {quantiles}) AS edges FROM {rows}")["edges"][0].as_py()
    bins = " + ".join(f"({feature} >= {edge!r}::FLOAT)::INTEGER" for edge in sorted(set(edges or []))) or "0"
    return log.ask(
        f"""SELECT $feature AS feature, min(value) AS low, max(value) AS high, sum(share) AS offered,
            coalesce(sum(share) FILTER (is_pick), 0) AS picked, picked / offered AS pick_rate,
            sum(share * score) / (sum(share) FILTER (score IS NOT NULL)) AS mean_score
        FROM (SELECT {feature} AS value, share, is_pick, score, {bins} AS bin FROM {rows})
        WHERE value IS NOT NULL GROUP BY bin ORDER BY bin""",
        feature=feature,
    )
