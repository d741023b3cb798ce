"""What a log adds up to: in all, by sample, by document, by source."""

import pyarrow as pa

from ..log.schema import DROPPED, QUANTITIES
from .open_log import OpenLog

# What a sample, document or source adds up to; `share` is 1 for samples.
TOTALS = {
    "offered": "sum(share)",
    "picked": "coalesce(sum(share) FILTER (is_pick), 0)",
    "pick_rate": "coalesce(sum(share) FILTER (is_pick), 0) / sum(share)",
    "scored": "coalesce(sum(share) FILTER (is_scored), 0)",
    "picked_unknown": "coalesce(sum(share) FILTER (is_pick AND contribution IS NULL), 0)",
    "mean_score": "sum(share * score) / (sum(share) FILTER (score IS NOT NULL))",
    "total_score": "sum(share * score)",
    # Over the picks alone: the zeros of the others would make 0 of what is unknown.
    "contribution": "CASE WHEN bool_or(is_pick) THEN sum(share * contribution) FILTER (is_pick) ELSE 0 END",
    "second_order": "CASE WHEN bool_or(is_pick) THEN sum(share * second_order) FILTER (is_pick) ELSE 0 END",
}
ALL_TOTALS = ", ".join(f"{formula} AS {name}" for name, formula in TOTALS.items())
_ALL = 2**62  # rows
_NOT_FINITE = " OR ".join(
    "is_scored AND score IS NULL" if name == "score" else f"NOT isfinite({name})" for name in QUANTITIES
)


def summary(log: OpenLog) -> pa.Table:
    """One row: first and last step, steps, groups a step, ranks, candidates (all that were drawn), distinct samples,
    picks, how many candidates were scored, how many were dropped before that, how many picks were not scored, of how
    many picks the contribution is unknown, and of how many candidates a quantity came out as NaN or infinite."""
    return log.ask(f"""
        SELECT min(step) AS first_step, max(step) AS last_step, count(DISTINCT step) AS steps,
            count(DISTINCT "group") AS groups, count(DISTINCT rank) AS ranks, count(*) AS candidates,
            count(DISTINCT sample_id) AS samples, count(*) FILTER (is_pick) AS picks,
            count(*) FILTER (is_scored) AS scored, count(*) FILTER (pick = {DROPPED}) AS dropped,
            count(*) FILTER (is_pick AND NOT is_scored) AS picks_unscored,
            count(*) FILTER (is_pick AND contribution IS NULL) AS picks_unknown,
            count(*) FILTER ({_NOT_FINITE}) AS not_finite
        FROM candidates""")


def gaps(log: OpenLog) -> pa.Table:
    """Runs of steps for which groups have no rows though other steps of the log have them: a file is lost,
    damaged, or (at the end) not written yet. Columns: first_step, last_step, groups (list)."""
    return log.ask("""
        WITH present AS (SELECT DISTINCT step, "group" FROM rows_as_logged),
        expected AS (SELECT min(step) AS low, max(step) AS high FROM present),
        bounded AS (
            SELECT step, "group" FROM present
            UNION ALL SELECT DISTINCT low - 1, "group" FROM present, expected
            UNION ALL SELECT DISTINCT high + 1, "group" FROM present, expected),
        neighbours AS (
            SELECT "group", lag(step) OVER (PARTITION BY "group" ORDER BY step) + 1 AS first_step,
                step - 1 AS last_step
            FROM bounded)
        SELECT first_step, last_step, list("group" ORDER BY "group") AS groups
        FROM neighbours WHERE last_step >= first_step
        GROUP BY first_step, last_step ORDER BY first_step, last_step""")


def samples(
    log: OpenLog, order: str = "contribution", lowest: bool = False, top: int | None = 20, picked: bool = False
) -> pa.Table:
    """The `top` samples (None: all), or of those that were picked, by a column: times offered and picked, pick_rate,
    times scored, times picked with an unknown contribution, mean_score and total_score over all times it had a finite
    score, contribution and second_order over the times it was trained on and they are known."""
    formula, direction = _ordering(order, lowest)
    return log.ask(
        f"""WITH shared AS (SELECT *, 1.0::DOUBLE AS share FROM candidates),
        best AS (
            SELECT sample_id, {formula} AS value FROM shared
            GROUP BY sample_id HAVING bool_or(is_pick) OR NOT $picked
            ORDER BY value {direction}, sample_id LIMIT $top)
        SELECT sample_id, {ALL_TOTALS} FROM shared SEMI JOIN best USING (sample_id)
        GROUP BY sample_id ORDER BY {order} {direction}, sample_id""",
        top=_ALL if top is None else top,
        picked=picked,
    )


def documents(
    log: OpenLog, order: str = "mean_score", lowest: bool = False, top: int = 20, source: str | None = None
) -> pa.Table:
    """The `top` documents by a column, with their source; columns as in `samples`, weighted by shares.

    Ordered by a mean or a rate, only documents of which half a sample or more was scored or offered are compared:
    the mean of a sliver says more about its neighbours in the sample. `source` keeps to one source.
    """
    formula, direction = _ordering(order, lowest)
    enough = {"mean_score": f"{TOTALS['scored']} >= 0.5", "pick_rate": "sum(share) >= 0.5"}.get(order, "true")
    # Everything is added up for the best documents only: with millions of documents that saves most of the
    # time.
    return log.ask(
        f"""WITH best AS (
            SELECT document, {formula} AS value FROM candidates JOIN spans USING (sample_id)
            WHERE $source IS NULL OR source = $source
            GROUP BY document HAVING {enough}
            ORDER BY value {direction}, document LIMIT $top)
        SELECT document, any_value(source) AS source, {ALL_TOTALS}
        FROM candidates JOIN (SELECT * FROM spans SEMI JOIN best USING (document)) USING (sample_id)
        GROUP BY document ORDER BY {order} {direction}, document""",
        top=top,
        source=source,
    )


def sources(log: OpenLog) -> pa.Table:
    """Every source, by its pick rate: its share of the pool (of all candidates) and of the picks, the ratio
    of the two (`lift`: 1 where the choice is blind to the source, below 1/2 starved), and columns as in
    `samples`.
    """
    return log.ask(f"""
        SELECT source, offered / sum(offered) OVER () AS pool_share,
            picked / nullif(sum(picked) OVER (), 0) AS picks_share, picks_share / pool_share AS lift,
            totals.* EXCLUDE (source)
        FROM (SELECT source, {ALL_TOTALS} FROM candidates JOIN spans USING (sample_id) GROUP BY source) AS totals
        ORDER BY pick_rate DESC, source""")


def score_histogram(log: OpenLog, bins: int = 40) -> pa.Table:
    """How many scored candidates were picked and rejected with a score in [low, high): low, high, picked, rejected.

    The bins are equally wide between the 1st and the 99th percentile of the scores; the first and the last
    one count what lies beyond, too. Bins that nothing falls in are left out.
    """
    return log.ask(
        """WITH bounds AS (
            SELECT quantile_disc(score, 0.01) AS bottom,
                greatest(quantile_disc(score, 0.99) - bottom, 1e-30) / $bins AS width
            FROM candidates WHERE score IS NOT NULL)
        SELECT bottom + width * greatest(0, least($bins - 1, floor((score - bottom) / width))) AS low,
            low + any_value(width) AS high,
            count(*) FILTER (is_pick) AS picked, count(*) FILTER (NOT is_pick) AS rejected
        FROM candidates, bounds WHERE score IS NOT NULL GROUP BY low ORDER BY low""",
        bins=bins,
    )


def _ordering(order: str, lowest: bool) -> tuple[str, str]:
    if order not in TOTALS:
        raise ValueError(f"cannot order by {order!r}: the columns to order by are {', '.join(TOTALS)}")
    return TOTALS[order], f"{'ASC' if lowest else 'DESC'} NULLS LAST"
