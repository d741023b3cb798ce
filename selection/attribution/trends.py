"""How scores and picks change in the course of a run."""

import pyarrow as pa

from .open_log import OpenLog
from .totals import ALL_TOTALS


def over_time(log: OpenLog, windows: int = 10, source: str | None = None) -> pa.Table:
    """Pick rate and mean score of every source in `windows` equal stretches of steps: first_step, last_step,
    source, offered, picked, pick_rate, mean_score. `source` keeps to one source."""
    return log.ask(
        f"""WITH bounds AS (SELECT min(step) AS low, max(step) + 1 - low AS span FROM rows_as_logged),
        windowed AS (
            SELECT *, (step - low) * $windows // span AS number FROM candidates, bounds),
        totals AS (
            SELECT number, source, {ALL_TOTALS} FROM windowed JOIN spans USING (sample_id)
            WHERE $source IS NULL OR source = $source GROUP BY number, source)
        SELECT (low + ceil(number * span / $windows))::INTEGER AS first_step,
            (low + ceil((number + 1) * span / $windows))::INTEGER - 1 AS last_step,
            source, offered, picked, pick_rate, mean_score
        FROM totals, bounds ORDER BY number, source""",
        windows=windows,
        source=source,
    )


def early_and_late(log: OpenLog) -> pa.Table:
    """How the first third of the steps chose, against the last third: per source the pick rate and mean score
    of each, and the change of the pick rate (late - early), the largest rise first."""
    log.define("thirds", over_time(log, windows=3))
    return log.ask("""
        WITH ends AS (SELECT min(first_step) AS early, max(first_step) AS late FROM thirds)
        SELECT source, any_value(pick_rate) FILTER (first_step = early) AS early_pick_rate,
            any_value(pick_rate) FILTER (first_step = late) AS late_pick_rate,
            late_pick_rate - early_pick_rate AS change,
            any_value(mean_score) FILTER (first_step = early) AS early_mean_score,
            any_value(mean_score) FILTER (first_step = late) AS late_mean_score
        FROM thirds, ends GROUP BY source ORDER BY change DESC NULLS LAST, source""")


def returning(log: OpenLog) -> pa.Table:
    """How fast the score of a sample changes: over samples that came again, by the number of steps since
    they last came (powers of two: steps_from to steps_to). `pairs` of two offers that follow each other, the
    `correlation` of the two standings (share of its group that the sample outscored, so that neither the
    scale of the scores nor its drift counts), and `same_choice`, the share picked both times or rejected
    both times. Of offers and groups only what was scored counts.
    """
    return log.ask("""
        WITH standings AS (
            SELECT sample_id, step, is_pick,
                percent_rank() OVER (PARTITION BY step, "group" ORDER BY score) AS standing
            FROM candidates WHERE score IS NOT NULL),
        pairs AS (
            SELECT standing, lag(standing) OVER since AS standing_before, is_pick,
                lag(is_pick) OVER since AS was_pick, step - lag(step) OVER since AS elapsed
            FROM standings SEMI JOIN (
                SELECT sample_id FROM rows_as_logged GROUP BY sample_id HAVING count(*) > 1) USING (sample_id)
            WINDOW since AS (PARTITION BY sample_id ORDER BY step))
        SELECT (2 ** floor(log2(elapsed)))::INTEGER AS steps_from, 2 * steps_from - 1 AS steps_to,
            count(*) AS pairs, corr(standing, standing_before) AS correlation,
            avg((is_pick = was_pick)::INTEGER) AS same_choice
        FROM pairs WHERE elapsed > 0 GROUP BY steps_from ORDER BY steps_from""")
