"""What a selection favours: pick rate against what can be said of a sample without its score.

Every feature is cut into ten bins of about equally many candidates, so that a flat pick rate over the bins
means the choice is blind to the feature.
"""

import pyarrow as pa

from selection.attribution import OpenLog

BINS = 10

# The documents' lengths are known as far as the logged samples reach.
_SPANS = """(
    SELECT candidates.*, spans.*, length FROM candidates JOIN spans USING (sample_id)
    JOIN (SELECT document, max("last") AS length FROM spans GROUP BY document) USING (document))"""
_SAMPLES = """(
    SELECT *, 1.0::DOUBLE AS share FROM candidates LEFT JOIN
    (SELECT sample_id, any_value(rarity) AS rarity FROM spans GROUP BY sample_id) USING (sample_id))"""

# feature -> (rows, value)
FEATURES = {
    "length": (_SPANS, "length"),
    "position": (_SPANS, '"first" / length'),
    "rarity": (_SAMPLES, "rarity"),
    "loss": (_SAMPLES, "CASE WHEN isfinite(loss) THEN loss END"),
}


def bias(log: OpenLog, feature: str) -> pa.Table:
    """Pick rate and mean score in ten bins of a feature: feature, low, high (values found in the bin),
    offered, picked, pick_rate, mean_score. Fewer bins where many candidates share one value.

    `length`: characters of the document, as far as the logged samples reach into it; `position`: where in
    the document the sample's span begins, 0 to 1; `rarity`: mean bits per token of the sample under the
    unigram distribution of the training tokens; `loss`: mean token loss at the time it was offered. The
    first two weigh a span by its share of the sample. Candidates for which the feature is unknown are left
    out.
    """
    if feature not in FEATURES:
        raise ValueError(f"there is no feature {feature!r}: the features are {', '.join(FEATURES)}")
    rows, value = FEATURES[feature]
    quantiles = [i / BINS for i in range(1, BINS)]
    edges = log.ask(f"SELECT quantile_disc({value}, {quantiles}) AS edges FROM {rows}")["edges"][0].as_py()
    if edges is None:  # nothing of the feature is known
        edges = []
    bins = " + ".join(f"(value >= {edge!r}::DOUBLE)::INTEGER" for edge in sorted(set(edges))) or "0"
    return log.ask(
        f"""SELECT $feature AS feature, min(value) AS low, max(value) AS high, sum(share) AS offered,
            coalesce(sum(share) FILTER (is_pick), 0) AS picked, picked / offered AS pick_rate,
            sum(share * score) / (sum(share) FILTER (score IS NOT NULL)) AS mean_score
        FROM (SELECT ({value})::DOUBLE AS value, {bins} AS bin, share, is_pick, score FROM {rows})
        WHERE value IS NOT NULL GROUP BY bin ORDER BY bin""",
        feature=feature,
    )
