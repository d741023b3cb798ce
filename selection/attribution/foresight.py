"""How well a prefilter foresaw the scores, and what it made of what was drawn.

A *scored* step is one in which any candidate has a score; in the steps *between*, the prefilter alone chose. Where a
method ranks by the predictions themselves (importance), all that was drawn is scored in every step in which they are
trusted, and nothing was foreseen: such scores have no correlation here.

Correlations are over what was scored, the shortlists: most of these the prefilter liked, so its predictions vary less
there than over all that was drawn.
"""

from collections.abc import Collection

import pyarrow as pa

from .open_log import OpenLog

# Pearson's, as the judge takes it: within a group, then the mean over the groups of a step.
_CORRELATIONS = """
    SELECT step, count(*) AS groups, avg(within) AS correlation
    FROM (
        SELECT step, corr(predicted::DOUBLE, score::DOUBLE) AS within FROM candidates
        WHERE NOT by_prediction AND score IS NOT NULL AND isfinite(predicted) GROUP BY step, "group")
    WHERE isfinite(within) GROUP BY step"""

_KIND = "CASE WHEN step_scored THEN 'scored' ELSE 'between' END AS kind, step IN (FROM off) AS is_off"


def correlations(log: OpenLog) -> pa.Table:
    """By step, for every scored step that has one: step, groups, and the mean over these groups of the `correlation`
    of prediction and score within the group."""
    return log.ask(f"{_CORRELATIONS} ORDER BY step")


def over_time(log: OpenLog, windows: int = 10, off: Collection[int] = ()) -> pa.Table:
    """In `windows` equal stretches of steps: first_step, last_step, scored_steps that have a correlation, the mean
    `correlation` over these and its `standard_error` (null for one step), `unscored_share` of the picks, and
    `off_share`, the share of the steps that are in `off`: those for which the prefilter was switched off."""
    _define_off(log, off)
    return log.ask(
        f"""WITH known AS ({_CORRELATIONS}),
        by_step AS (
            SELECT step, count(*) FILTER (is_pick) AS picks, count(*) FILTER (is_pick AND NOT is_scored) AS unscored,
                step IN (FROM off) AS is_off
            FROM candidates GROUP BY step),
        bounds AS (SELECT min(step) AS low, max(step) + 1 - low AS span FROM by_step),
        totals AS (
            SELECT (step - low) * $windows // span AS number, count(correlation) AS scored_steps,
                avg(correlation) AS correlation,
                stddev_samp(correlation) / sqrt(count(correlation)) AS standard_error,
                sum(unscored) / nullif(sum(picks), 0) AS unscored_share, avg(is_off::INTEGER) AS off_share
            FROM by_step LEFT JOIN known USING (step), bounds GROUP BY number)
        SELECT (low + ceil(number * span / $windows))::INTEGER AS first_step,
            (low + ceil((number + 1) * span / $windows))::INTEGER - 1 AS last_step, totals.* EXCLUDE (number)
        FROM totals, bounds ORDER BY number""",
        windows=windows,
    )


def outcomes(log: OpenLog, off: Collection[int] = ()) -> pa.Table:
    """What became of what was drawn: `steps` (scored or between, prefilter on or off), `outcome` (picked, rejected by
    score, dropped unscored), candidates, their share of those drawn in such steps, mean_predicted, mean_score."""
    _define_off(log, off)
    return log.ask(f"""
        SELECT kind || CASE WHEN is_off THEN ', prefilter off' ELSE '' END AS steps,
            CASE WHEN is_pick THEN 'picked' WHEN is_scored THEN 'rejected' ELSE 'dropped' END AS outcome,
            count(*) AS candidates, count(*) / sum(count(*)) OVER (PARTITION BY steps) AS share,
            avg(predicted) AS mean_predicted, avg(score) AS mean_score
        FROM (SELECT *, {_KIND} FROM candidates) GROUP BY steps, outcome
        ORDER BY steps LIKE '%off', steps LIKE 'between%', outcome <> 'picked', outcome <> 'rejected'""")


def by_source(log: OpenLog, off: Collection[int] = ()) -> pa.Table:
    """What the prefilter chose by source, against what the scores did, by pick rate in the steps between.

    source; pool_share of all that was drawn; shortlist_rate, the share that was scored of what was drawn in scored
    steps; scored_pick_rate, the share picked of the same; between_pick_rate, the share picked of what was drawn in the
    steps between; mean_predicted. Steps in `off` are left out; spans weigh as everywhere.
    """
    _define_off(log, off)
    scored, between = "FILTER (kind = 'scored')", "FILTER (kind = 'between')"
    return log.ask(f"""
        WITH totals AS (
            SELECT source, sum(share) AS offered,
                sum(share * is_scored::INTEGER) {scored} / sum(share) {scored} AS shortlist_rate,
                sum(share * is_pick::INTEGER) {scored} / sum(share) {scored} AS scored_pick_rate,
                sum(share * is_pick::INTEGER) {between} / sum(share) {between} AS between_pick_rate,
                sum(share * predicted) / (sum(share) FILTER (predicted IS NOT NULL)) AS mean_predicted
            FROM (SELECT *, {_KIND} FROM candidates) JOIN spans USING (sample_id)
            WHERE NOT is_off GROUP BY source)
        SELECT source, offered / sum(offered) OVER () AS pool_share, totals.* EXCLUDE (source, offered)
        FROM totals ORDER BY coalesce(between_pick_rate, shortlist_rate) DESC, scored_pick_rate DESC, source""")


def _define_off(log: OpenLog, off: Collection[int]) -> None:
    log.define("off", pa.table({"step": pa.array(sorted(off), pa.int32())}))
