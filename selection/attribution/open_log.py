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

from selection.log.reader import check_files
from selection.log.schema import SCHEMA

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
