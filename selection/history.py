"""Why a sample was picked or left out: what it was offered against, every time.

**Margin** of a candidate: its score less the bar it had to clear. For one that was rejected the bar is the lowest
score among the picks of its group (margin <= 0 under first-order selection: so much was missing); for a pick it is
the highest score among the rejected (so much it could have lost). In a step that a predictor picked in, the scores
compared are the predicted ones. Null without a score, or without an other side.
"""

import pyarrow as pa

from selection.attribution import OpenLog

_RANKED = """
    SELECT *, count(*) OVER whole AS candidates,
        CASE WHEN value IS NOT NULL THEN rank() OVER (whole ORDER BY value DESC NULLS LAST) END AS rank_in_group,
        value - CASE WHEN is_pick THEN max(value) FILTER (NOT is_pick) OVER whole
                     ELSE min(value) FILTER (is_pick) OVER whole END AS margin
    FROM (SELECT *, coalesce(score, predicted) AS value FROM asked) WINDOW whole AS (PARTITION BY step, "group")"""

_COLUMNS = 'step, "group", sample_id, pick, score, predicted, loss, rank_in_group, candidates, margin'


def sample_history(log: OpenLog, sample_id: int) -> pa.Table:
    """Every time a sample was offered, by step: step, group, sample_id, pick, score, predicted, loss,
    rank_in_group (1 = highest score), candidates (of the group), margin, and `lost_to`: where it was
    rejected, the sample ids of the up to three picks whose scores were the nearest above the bar.

    Raises ValueError if the log has no such sample.
    """
    table = log.ask(
        f"""WITH met AS (SELECT DISTINCT step, "group" FROM rows_as_logged WHERE sample_id = $sample_id),
        asked AS (SELECT * FROM candidates SEMI JOIN met USING (step, "group")),
        ranked AS ({_RANKED}),
        winners AS (
            SELECT step, "group",
                list(sample_id ORDER BY coalesce(score, predicted), sample_id)[:3] AS nearest
            FROM asked WHERE is_pick GROUP BY step, "group")
        SELECT {_COLUMNS}, CASE WHEN is_pick THEN NULL ELSE nearest END AS lost_to
        FROM ranked LEFT JOIN winners USING (step, "group")
        WHERE sample_id = $sample_id ORDER BY step, "group" """,
        sample_id=sample_id,
    )
    if not table.num_rows:
        raise ValueError(f"sample {sample_id} is not in the selection log: it was never offered")
    return table


def step_contents(log: OpenLog, step: int) -> pa.Table:
    """Every candidate of a step, by group, the picks first: columns as in `sample_history`, without lost_to.

    Raises ValueError if the log has no such step.
    """
    table = log.ask(
        f"""WITH asked AS (SELECT * FROM candidates WHERE step = $step)
        SELECT {_COLUMNS} FROM ({_RANKED})
        ORDER BY "group", NOT is_pick, pick, coalesce(score, predicted) DESC, sample_id""",
        step=step,
    )
    if not table.num_rows:
        ends = log.ask("SELECT min(step) AS first, max(step) AS last FROM rows_as_logged").to_pylist()[0]
        raise ValueError(f"step {step} is not in the selection log: it has steps {ends['first']} to {ends['last']}")
    return table


def first_samples(log: OpenLog, documents: list[str]) -> dict[str, int]:
    """For each document the sample that has the earliest part of it, of those in the log."""
    table = log.ask(
        """SELECT document, min_by(sample_id, "first") AS sample_id FROM spans
        WHERE document IN (SELECT unnest($documents)) GROUP BY document""",
        documents=documents,
    )
    return dict(zip(table["document"].to_pylist(), table["sample_id"].to_pylist(), strict=True))


def document_samples(log: OpenLog, document: str) -> pa.Table:
    """The samples that a document is part of, in its order: sample_id, first, last (characters of the
    document), share (of the sample), offered, picked, mean_score and contribution (of the whole sample).

    Raises ValueError if no logged sample has any of it.
    """
    table = log.ask(
        """SELECT sample_id, "first", "last", any_value(share) AS share, count(*) AS offered,
            count(*) FILTER (is_pick) AS picked, avg(score) AS mean_score, sum(contribution) AS contribution
        FROM (SELECT * FROM spans WHERE document = $document) JOIN candidates USING (sample_id)
        GROUP BY sample_id, "first", "last" ORDER BY "first", sample_id""",
        document=document,
    )
    if not table.num_rows:
        raise ValueError(f"document {document!r} is in no candidate of this run")
    return table
