"""How the selections of two runs differ.

With the same data, seed and groups, two runs are offered the same candidates: `agreement` compares them
group by group. `agreement_by_sample` and `sources_moved` compare any two runs over the same dataset.
"""

import pyarrow as pa

from .open_log import OpenLog
from .totals import sources

# Rank correlations are taken over about this many groups, where more have scores.
GROUPS_RANKED = 20_000

_THEIRS = """
    theirs AS (
        SELECT step, "group", sample_id, pick >= 0 AS is_pick,
            CASE WHEN isfinite(score) THEN score END AS score
        FROM others)"""


def agreement(first: OpenLog, second: OpenLog) -> pa.Table:
    """One row, on the candidates that both runs were offered in the same group of the same step.

    `groups` that share any; `candidates` shared; their picks by the first run, by the second, and by both;
    `overlap`, the picks by both over the mean of the two; `overlap_by_chance`, what choices blind to each
    other would have in common; `score_correlation`, Spearman's rank correlation of the scores within a
    group, mean over groups, of candidates that both runs scored, each by what its own method ranks by (null where
    there are none).

    What a prefilter dropped is not picked, like what was rejected.
    """
    first.define("others", second.rows)
    return first.ask(
        f"""WITH {_THEIRS},
        common AS (
            SELECT step, "group", mine.is_pick AS mine, theirs.is_pick AS theirs,
                mine.score AS my_score, theirs.score AS their_score
            FROM candidates AS mine JOIN theirs USING (step, "group", sample_id)),
        counts AS (
            SELECT count(*) AS candidates, count(*) FILTER (mine) AS a, count(*) FILTER (theirs) AS b,
                count(*) FILTER (mine AND theirs) AS shared, count(my_score + their_score) AS scored
            FROM common GROUP BY step, "group"),
        stride AS (SELECT greatest(1, count(*) FILTER (scored > 1) // {GROUPS_RANKED}) AS every FROM counts),
        ranked AS (
            SELECT step, "group",
                rank() OVER (PARTITION BY step, "group" ORDER BY my_score) AS my_rank,
                rank() OVER (PARTITION BY step, "group" ORDER BY their_score) AS their_rank
            FROM common, stride
            WHERE my_score IS NOT NULL AND their_score IS NOT NULL AND hash(step) % every = 0),
        correlations AS (SELECT corr(my_rank, their_rank) AS rho FROM ranked GROUP BY step, "group")
        SELECT count(*) AS groups, sum(candidates)::BIGINT AS candidates, sum(a)::BIGINT AS picks_first,
            sum(b)::BIGINT AS picks_second, sum(shared)::BIGINT AS picks_both,
            2 * picks_both / (picks_first + picks_second) AS overlap,
            2 * sum(a * b / candidates) / (picks_first + picks_second) AS overlap_by_chance,
            (SELECT avg(rho) FROM correlations WHERE isfinite(rho)) AS score_correlation
        FROM counts"""
    )


def agreement_by_sample(first: OpenLog, second: OpenLog) -> pa.Table:
    """One row, on the samples that both runs were offered, whenever that was: `samples`; how many of them the
    first run ever picked, the second, and both; `overlap` and `overlap_by_chance` as in `agreement`.
    """
    first.define("others", second.rows)
    return first.ask("""
        WITH mine AS (SELECT sample_id, bool_or(pick >= 0) AS a FROM rows_as_logged GROUP BY sample_id),
        theirs AS (SELECT sample_id, bool_or(pick >= 0) AS b FROM others GROUP BY sample_id)
        SELECT count(*) AS samples, count(*) FILTER (a) AS picked_first, count(*) FILTER (b) AS picked_second,
            count(*) FILTER (a AND b) AS picked_both,
            2 * picked_both / nullif(picked_first + picked_second, 0) AS overlap,
            2 * picked_first * picked_second / samples / nullif(picked_first + picked_second, 0)
                AS overlap_by_chance
        FROM mine JOIN theirs USING (sample_id)""")


def sources_moved(first: OpenLog, second: OpenLog) -> pa.Table:
    """Per source the pick rate and the share of the picks in either run, and the change of the share (second
    - first), the source that moved most first."""
    first.define("my_sources", sources(first))
    first.define("their_sources", sources(second))
    return first.ask("""
        SELECT source, mine.pick_rate AS pick_rate_first, theirs.pick_rate AS pick_rate_second,
            coalesce(mine.picks_share, 0) AS share_first, coalesce(theirs.picks_share, 0) AS share_second,
            share_second - share_first AS change
        FROM my_sources AS mine FULL JOIN their_sources AS theirs USING (source)
        ORDER BY abs(change) DESC, source""")
