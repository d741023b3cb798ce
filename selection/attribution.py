"""What a selection log says: who was offered, who was picked, and what the picks were worth.

`OpenLog` opens a log folder of any number of files as views of an in-process DuckDB, which streams them: memory
stays within `MEMORY` whatever the number of rows. Every question is one function that returns a pyarrow table.
`selection.trends` asks how scores and picks change with time, `selection.bias` what the choice favours,
`selection.history` what happened to one sample or in one step, `selection.overlap` how two runs differ,
`selection.predictions` how well a prefilter foresaw the scores.

**Offered** is every candidate that was drawn, and pick rates are over all of these, dropped ones included.

**Score** is the first-order score <g_i, v> where it was measured and finite. Means of scores are over what was scored:
behind a prefilter, over its shortlists, which are not a fair sample of what was drawn.

**Contribution** of a candidate that was trained on, in the sense of In-Run Data Shapley (Wang et al.,
arXiv 2406.11011, first-order form: sum over steps of eta <g_i, v>): the drop of the validation loss that its
share of the update was worth to first order. A step subtracts eta times the *mean* gradient of its picks, so
what the paper calls eta is here learning_rate / (picks of the step over all groups):

    contribution_i = a <g_i, v>,                     a = learning_rate / picks of the step
    second_order_i = - a^2 c / 2 sum_j <g_i, g_j>    over the picks j of its group, i itself included

The second is the paper's second-order term with the Hessian replaced by c times the identity (DESIGN,
section 4). It needs the log's `interaction` and `self_norm`, leaves out pairs in different groups (they are
never multiplied), and is null where one was not measured. A candidate that was not picked contributes
nothing: 0. What a pick contributed that was not scored is unknown: null. Totals add up what is known, are null
where nothing that was picked is, and `picked_unscored` says how much of `picked` they leave out. Both are for the
plain gradient step, whatever the optimizer was.

**Documents and sources.** A packed sample is made of spans of several documents. Each span owns the share of
the sample that its characters make up, and of everything that happened to the sample. So `offered` and
`picked` of a document can be fractions, and totals over documents or sources equal the totals over samples.
"""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa

from selection.log import DROPPED, SCHEMA, check_files

MEMORY = "1GB"  # beyond it DuckDB spills to a temporary folder

# One row per span of a sample. `first`, `last`: characters [first, last) of the document; `share`: the
# span's characters over the sample's; `rarity`: mean bits per token of the whole sample under the unigram
# distribution of the training tokens, null where unknown.
SPANS = pa.schema(
    [
        ("sample_id", pa.int64()),
        ("document", pa.string()),
        ("source", pa.string()),
        ("first", pa.int64()),
        ("last", pa.int64()),
        ("share", pa.float64()),
        ("rarity", pa.float32()),
    ]
)


def spans_table(samples: Iterable[tuple[int, Iterable, float | None]]) -> pa.Table:
    """The `SPANS` table of (sample_id, spans, rarity) triples; a span has document, source, first, last."""
    rows = []
    for sample_id, spans, rarity in samples:
        spans = list(spans)
        characters = sum(span.last - span.first for span in spans)
        for span in spans:
            # A sample of nothing but separators has spans without characters: they share it equally.
            share = (span.last - span.first) / characters if characters else 1 / len(spans)
            rows.append((sample_id, span.document, span.source, span.first, span.last, share, rarity))
    columns = list(zip(*rows, strict=True)) if rows else [[] for _ in SPANS]
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, SPANS, strict=True)], SPANS)


class OpenLog:
    """A log folder, opened for questions; a context manager.

    `spans`: a `SPANS` table, or Parquet files of that schema, for at least the sample ids of the log; without
    them, questions about documents and sources find nothing. `curvature`: the c of the second-order term.
    `damaged` says which files are left out, and why. Raises ValueError if there is no such folder.
    """

    def __init__(self, folder: Path, spans: pa.Table | list[Path] | None = None, curvature: float = 1.0):
        files = check_files(folder)
        self.damaged = files.damaged
        self.rows: pa.Table | list[Path] = files.readable or SCHEMA.empty_table()
        self._spill = tempfile.TemporaryDirectory(prefix="selection-log-")
        self._database = duckdb.connect(config={"memory_limit": MEMORY, "temp_directory": self._spill.name})
        # DuckDB would draw its progress bar on standard output, where answers go.
        self._database.execute("SET preserve_insertion_order = false; SET enable_progress_bar = false")
        self.define("rows_as_logged", self.rows)
        self.define("spans", SPANS.empty_table() if spans is None or spans == [] else spans)
        self._database.execute(_VIEWS.format(curvature=float(curvature)))

    def __enter__(self) -> "OpenLog":
        return self

    def __exit__(self, *exception) -> None:
        self._database.close()
        self._spill.cleanup()

    @property
    def knows_documents(self) -> bool:
        """Whether any span is known."""
        return self.ask("SELECT count(*) > 0 AS any FROM spans")["any"][0].as_py()

    def define(self, name: str, rows: pa.Table | list[Path]) -> None:
        """Make a table, or the rows of Parquet files, known to queries by a name, in place of what had it."""
        self._database.unregister(name)  # a registered table would hide the view
        if isinstance(rows, pa.Table):
            self._database.register(name, rows)
        else:
            relation = self._database.read_parquet([str(path) for path in rows])
            relation.create_view(name, replace=True)

    @contextmanager
    def temporary(self, name: str, query: str) -> Iterator[None]:
        """Keep the answer to a query as a table for a while, for questions that pass over it more than
        once."""
        self._database.execute(f"CREATE TEMP TABLE {name} AS {query}")
        try:
            yield
        finally:
            self._database.execute(f"DROP TABLE {name}")

    def ask(self, query: str, **parameters) -> pa.Table:
        """The answer to a DuckDB query over `candidates`, `spans` and `steps`; `$name` stands for a
        parameter.

        `candidates` has the log's columns and: is_pick, is_scored (boolean; by a gradient's product or its norm),
        step_scored (whether any of its step was), score, contribution, second_order.
        """
        return self._database.sql(query, params=parameters or None).to_arrow_table()


_VIEWS = """
CREATE VIEW steps AS
    SELECT step, count(*) FILTER (pick >= 0) AS picks,
        bool_or(first_order IS NOT NULL OR self_norm IS NOT NULL) AS step_scored
    FROM rows_as_logged GROUP BY step;
CREATE VIEW candidates AS
    SELECT log.*, step_scored,
        pick >= 0 AS is_pick,
        first_order IS NOT NULL OR self_norm IS NOT NULL AS is_scored,
        CASE WHEN isfinite(first_order) THEN first_order END AS score,
        learning_rate::DOUBLE / picks AS step_size,
        CASE WHEN is_pick THEN step_size * score ELSE 0 END AS contribution,
        CASE WHEN is_pick THEN -(step_size ** 2) * {curvature} / 2 * (interaction + self_norm::DOUBLE ** 2)
             ELSE 0 END AS second_order
    FROM rows_as_logged AS log JOIN steps USING (step);
"""

# What a sample, document or source adds up to; `share` is 1 for samples.
TOTALS = {
    "offered": "sum(share)",
    "picked": "coalesce(sum(share) FILTER (is_pick), 0)",
    "pick_rate": "coalesce(sum(share) FILTER (is_pick), 0) / sum(share)",
    "scored": "coalesce(sum(share) FILTER (score IS NOT NULL), 0)",
    "picked_unscored": "coalesce(sum(share) FILTER (is_pick AND score IS NULL), 0)",
    "mean_score": "sum(share * score) / (sum(share) FILTER (score IS NOT NULL))",
    "total_score": "sum(share * score)",
    # Over the picks alone: the zeros of the others would make 0 of what is unknown.
    "contribution": "CASE WHEN bool_or(is_pick) THEN sum(share * contribution) FILTER (is_pick) ELSE 0 END",
    "second_order": "CASE WHEN bool_or(is_pick) THEN sum(share * second_order) FILTER (is_pick) ELSE 0 END",
}
ALL_TOTALS = ", ".join(f"{formula} AS {name}" for name, formula in TOTALS.items())


def summary(log: OpenLog) -> pa.Table:
    """One row: first and last step, steps, groups a step, ranks, candidates (all that were drawn), distinct samples,
    picks, how many candidates have a first-order score, how many were dropped before any, how many picks have none,
    and how many quantities came out as NaN or infinite."""
    return log.ask(f"""
        SELECT min(step) AS first_step, max(step) AS last_step, count(DISTINCT step) AS steps,
            count(DISTINCT "group") AS groups, count(DISTINCT rank) AS ranks, count(*) AS candidates,
            count(DISTINCT sample_id) AS samples, count(*) FILTER (is_pick) AS picks,
            count(first_order) AS scored, count(*) FILTER (pick = {DROPPED}) AS dropped,
            count(*) FILTER (is_pick AND first_order IS NULL) AS picks_unscored,
            count(*) FILTER (NOT isfinite(loss) OR NOT isfinite(first_order)) AS not_finite
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


def samples(log: OpenLog, order: str = "contribution", lowest: bool = False, top: int = 20) -> pa.Table:
    """The `top` samples by a column: times offered and picked, pick_rate, mean_score and total_score over all
    times it was scored, contribution and second_order over the times it was trained on."""
    formula, direction = _ordering(order, lowest)
    return log.ask(
        f"""WITH shared AS (SELECT *, 1.0::DOUBLE AS share FROM candidates),
        best AS (
            SELECT sample_id, {formula} AS value FROM shared
            GROUP BY sample_id ORDER BY value {direction}, sample_id LIMIT $top)
        SELECT sample_id, {ALL_TOTALS} FROM shared SEMI JOIN best USING (sample_id)
        GROUP BY sample_id ORDER BY {order} {direction}, sample_id""",
        top=top,
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
