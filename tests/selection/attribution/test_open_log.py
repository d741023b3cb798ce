"""Logs with gaps, damage or nothing in them, and what is known of documents."""

import pyarrow as pa
import pyarrow.parquet as pq

from selection.attribution import totals, trends
from selection.attribution.bias import bias
from selection.attribution.open_log import SPANS, OpenLog, spans_table
from selection.log.writer import SelectionLog
from tests.helpers.log_example import STEPS, N, Span, write_log, write_spans


def test_gaps_are_named(tmp_path):
    write_log(tmp_path)
    with OpenLog(tmp_path) as log:
        assert totals.gaps(log).num_rows == 0
    SelectionLog.drop_from(tmp_path, 25)
    late = SelectionLog(tmp_path, rank=0)
    for step in (27, 28):
        late.append(step, 1, [1], [0], learning_rate=1.0)
    late.close()
    with OpenLog(tmp_path) as log:
        assert totals.gaps(log).to_pylist() == [
            {"first_step": 25, "last_step": 26, "groups": [1]},
            {"first_step": 25, "last_step": 28, "groups": [0, 2]},
        ]


def test_a_damaged_file_is_left_out_of_every_answer(tmp_path):
    write_log(tmp_path)
    broken = tmp_path / "000000000-rank00001.parquet"
    broken.write_bytes(broken.read_bytes()[:-100])
    with OpenLog(tmp_path, write_spans()) as log:
        assert list(log.damaged) == [broken]
        assert totals.summary(log)["candidates"][0].as_py() == STEPS * 2 * N
        assert totals.gaps(log).num_rows == 0  # group 2 is not known to exist


def test_an_empty_log_answers_with_nothing(tmp_path):
    with OpenLog(tmp_path) as log:
        assert totals.summary(log)["candidates"][0].as_py() == 0
        for ask in (totals.samples, totals.documents, totals.sources, trends.over_time,
                    trends.early_and_late, trends.returning, totals.gaps, bias):  # fmt: skip
            assert ask(log).num_rows == 0


def test_spans_may_be_files_and_may_be_replaced(tmp_path):
    write_log(tmp_path / "selection")
    pq.write_table(write_spans(), tmp_path / "spans.parquet")
    with OpenLog(tmp_path / "selection") as log:
        assert not log.knows_documents
        log.define("spans", [tmp_path / "spans.parquet"])
        assert log.knows_documents
        assert totals.sources(log).num_rows == 3
        log.define("spans", write_spans().slice(0, 4))
        assert totals.sources(log).num_rows == 2


def test_spans_without_characters_share_equally():
    table = spans_table([(7, [Span("a", "s", 3, 3), Span("b", "s", 0, 0)], 1.5), (8, [], None)])
    assert table.schema.equals(SPANS)
    assert table["share"].to_pylist() == [0.5, 0.5]
    assert spans_table([]).equals(pa.table({name: [] for name in SPANS.names}, schema=SPANS))
