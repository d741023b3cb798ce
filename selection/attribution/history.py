"""Why a sample was picked or left out: what it was offered against, every time.

A candidate that was scored competed by its score with the others of its group that were, or, with `selection.pool` at
"step", of all groups; one that was not (a prefilter
dropped it, or picked in a step between scored ones) competed by what was predicted for it with all of its group.

**Margin** of a candidate: its score, or prediction, less the bar it had to clear. For one that was rejected or dropped
the bar is the lowest among the picks (margin <= 0, so much was missing, wherever the highest scores are picked; greats
also counts what picks take from each other); for a pick it is the highest among the others (so much it could have
lost). Null without a score or prediction, without an other side, where picks were not those of the highest predictions
(the prefilter was switched off, or its clusters took turns), and for what was left out of a shortlist, where picks are
by another measure, and the shortlist is partly drawn at random.
"""

import pyarrow as pa

from .open_log import OpenLog
from .totals import TOTALS

# `lowest` and `highest` are those of the picks and of the others, among the scored or among the rest of the group.
_RANKED = """
    SELECT *, CASE WHEN is_scored OR (NOT step_scored AND (lowest >= highest) IS NOT FALSE)
                   THEN value - CASE WHEN is_pick THEN highest ELSE lowest END END AS margin
    FROM (
        SELECT *, CASE WHEN is_scored THEN count(*) OVER rivals ELSE count(*) OVER whole END AS candidates,
            CASE WHEN score IS NOT NULL THEN rank() OVER (rivals ORDER BY score DESC NULLS LAST)
                 WHEN value IS NOT NULL THEN rank() OVER (whole ORDER BY predicted DESC NULLS LAST)
            END AS rank_in_group,
            min(value) FILTER (is_pick) OVER rivals AS lowest,
            max(value) FILTER (NOT is_pick) OVER rivals AS highest
        FROM (SELECT *, CASE WHEN is_scored THEN score ELSE predicted END AS value FROM asked)
        WINDOW whole AS (PARTITION BY step, "group"), rivals AS (PARTITION BY step, arena, is_scored))"""

_COLUMNS = 'step, "group", sample_id, pick, score, predicted, loss, rank_in_group, candidates, margin'
_OF_SAMPLES = ("offered", "picked", "scored", "mean_score", "contribution")


def sample_history(log: OpenLog, sample_id: int) -> pa.Table:
    """Every time a sample was offered, by step: step, group, sample_id, pick, score, predicted, loss,
    rank_in_group (1 = highest score, or prediction), candidates that it was ranked among, margin, and `lost_to`:
    where it was not picked, the sample ids of the up to three picks whose scores were the nearest above the bar.

    Raises ValueError if the log has no such sample.
    """
    table = log.ask(
        f"""WITH met AS (SELECT DISTINCT step, arena FROM candidates WHERE sample_id = $sample_id),
        asked AS (SELECT * FROM candidates SEMI JOIN met USING (step, arena)),
        ranked AS ({_RANKED}),
        winners AS (
            SELECT step, arena,
                list(sample_id ORDER BY coalesce(score, predicted), sample_id)[:3] AS nearest
            FROM asked WHERE is_pick GROUP BY step, arena)
        SELECT {_COLUMNS}, CASE WHEN is_pick THEN NULL ELSE nearest END AS lost_to
        FROM ranked LEFT JOIN winners USING (step, arena)
        WHERE sample_id = $sample_id ORDER BY step, "group" """,
        sample_id=sample_id,
    )
    if not table.num_rows:
        raise ValueError(f"sample {sample_id} is not in the selection log: it was never offered")
    return table


def step_contents(log: OpenLog, step: int) -> pa.Table:
    """Every candidate of a step, by group, the picks first, the dropped last: columns as in `sample_history`,
    without lost_to.

    Raises ValueError if the log has no such step.
    """
    table = log.ask(
        f"""WITH asked AS (SELECT * FROM candidates WHERE step = $step)
        SELECT {_COLUMNS} FROM ({_RANKED})
        ORDER BY "group", NOT is_pick, NOT is_scored, greatest(pick, -1), value DESC, sample_id""",
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
    document), share (of the sample), offered, picked, scored, mean_score and contribution (of the whole sample).

    Raises ValueError if no logged sample has any of it.
    """
    columns = ", ".join(f"{TOTALS[name]} AS {name}" for name in _OF_SAMPLES)
    table = log.ask(
        f"""SELECT sample_id, "first", "last", any_value(part) AS share, {columns}
        FROM (SELECT * EXCLUDE (share), share AS part, 1.0::DOUBLE AS share FROM spans WHERE document = $document)
            JOIN candidates USING (sample_id)
        GROUP BY sample_id, "first", "last" ORDER BY "first", sample_id""",
        document=document,
    )
    if not table.num_rows:
        raise ValueError(f"document {document!r} is in no candidate of this run")
    return table


def fates(log: OpenLog, documents: pa.Table) -> pa.Table:
    """What became of documents: the rows of the table, which has a column `document`, in their order, with `samples`
    (logged ones that have some of it) and, weighted by shares, offered, picked, scored, mean_score and contribution."""
    asked = documents.append_column("place", pa.array(range(documents.num_rows)))
    log.define("asked_documents", asked)
    columns = ", ".join(f"{TOTALS[name]} AS {name}" for name in _OF_SAMPLES)
    return log.ask(f"""
        WITH parts AS (
            SELECT document, sample_id, sum(share) AS share FROM spans SEMI JOIN asked_documents USING (document)
            GROUP BY document, sample_id),
        fates AS (
            SELECT document, count(DISTINCT sample_id) AS samples, {columns}
            FROM parts JOIN candidates USING (sample_id) GROUP BY document)
        SELECT asked_documents.* EXCLUDE (place), coalesce(samples, 0) AS samples, coalesce(offered, 0) AS offered,
            coalesce(picked, 0) AS picked, coalesce(scored, 0) AS scored, mean_score, contribution
        FROM asked_documents LEFT JOIN fates USING (document) ORDER BY place""")
