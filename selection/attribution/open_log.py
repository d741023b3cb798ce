"""What a selection log says: who was offered, who was picked, and what the picks were worth.

`OpenLog` opens a log folder of any number of files as views of an in-process DuckDB, which streams them: memory
stays within `MEMORY` whatever the number of rows. Every question is one function that returns a pyarrow table.
Beside this file stand `totals`, what it all adds up to; `trends`, how scores and picks change with time; `bias`, what
the choice favours; `history`, what happened to one sample or in one step; `overlap`, how two runs differ; and
`foresight`, how well a prefilter foresaw the scores.

**Offered** is every candidate that was drawn, and pick rates are over all of these, dropped ones included.

**Scored** is every candidate that has a score in the log, and **score** is that score where it is finite: what the
method ranked by, the higher the better. So it is the first-order score <g_i, v> of greats and topk, its negative of
bottomk, a gradient's norm of gradnorm, a loss of maxloss, and of importance the filter's prediction, of all that were
drawn. A run of method regular scores nothing, nor does a step in which a prefilter alone chose. Means of scores are
over what was scored: behind a prefilter, over its shortlists, which are not a fair sample of what was drawn.

**Contribution** of a candidate that was trained on, in the sense of In-Run Data Shapley (Wang et al.,
arXiv 2406.11011, first-order form: sum over steps of eta <g_i, v>): the drop of the validation loss that its
share of the update was worth to first order. A step subtracts eta times the *mean* gradient of its picks, so
what the paper calls eta is here learning_rate / (picks of the step over all groups):

    contribution_i = a <g_i, v>,                     a = learning_rate / picks of the step
    second_order_i = - a^2 c / 2 sum_j <g_i, g_j>    over the picks j of its group, i itself included

The second is the paper's second-order term with the Hessian replaced by c times the identity
(docs/method.md). It needs the log's `interaction` and `self_norm`, leaves out pairs in different groups (they are
never multiplied), and is null where one was not measured, so it is known of greats alone. A candidate that was not
picked contributes nothing: 0. What a pick contributed that has no finite `first_order` is unknown: null. That is every
pick of a method that does not aim at target samples (gradnorm, maxloss, importance, regular), scored or not, and every
pick that a prefilter made alone. Totals add up what is known, are null where of all that was picked nothing is, and
`picked_unknown` says how much of `picked` they leave out. Both are for the plain gradient step, whatever the optimizer
was; along a direction preconditioned by `adam` the first is for the step AdamW takes.

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

from ..log.reader import check_files
from ..log.schema import SCHEMA

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

        `candidates` has the log's columns, of them `score` only where it is finite, and: is_pick, is_scored (whether
        the log has a score), step_scored (whether any of its step was), by_prediction (whether the scores of its step
        are the predictions themselves, of all that were drawn), arena (whom it competed with: the number of its group,
        -1 where all groups of the step competed, which then share one order of picks), step_size (a), contribution,
        second_order.
        """
        return self._database.sql(query, params=parameters or None).to_arrow_table()


_VIEWS = """
CREATE VIEW steps AS
    SELECT step, count(*) FILTER (pick >= 0) AS picks,
        bool_or(score IS NOT NULL) AS step_scored,
        step_scored AND bool_and(score IS NOT DISTINCT FROM predicted) AS by_prediction,
        count(DISTINCT pick) FILTER (pick >= 0) = count(*) FILTER (pick >= 0) AND count(DISTINCT "group") > 1
            AS together
    FROM rows_as_logged GROUP BY step;
CREATE VIEW candidates AS
    SELECT log.* REPLACE (CASE WHEN isfinite(log.score) THEN log.score END AS score),
        step_scored, by_prediction,
        CASE WHEN together THEN -1 ELSE "group" END AS arena,
        pick >= 0 AS is_pick,
        log.score IS NOT NULL AS is_scored,
        learning_rate::DOUBLE / picks AS step_size,
        CASE WHEN NOT is_pick THEN 0 WHEN isfinite(first_order) THEN step_size * first_order END AS contribution,
        CASE WHEN is_pick THEN -(step_size ** 2) * {curvature} / 2 * (interaction + self_norm::DOUBLE ** 2)
             ELSE 0 END AS second_order
    FROM rows_as_logged AS log JOIN steps USING (step);
"""
