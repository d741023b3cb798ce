"""Sums over samples, documents and sources against a plain loop over the rows of a small log."""

import numpy as np
import pytest

from selection.attribution import totals
from selection.attribution.open_log import OpenLog, spans_table
from selection.log.writer import SelectionLog
from tests.helpers.log_example import GROUPS, SAMPLES, STEPS, K, N, Span, write_spans
from tests.selection.attribution.loops import added_up, assert_added_up, by_source, shares


def test_summary(rows):
    log, _ = rows
    assert totals.summary(log).to_pylist() == [
        {
            "first_step": 0, "last_step": STEPS - 1, "steps": STEPS, "groups": GROUPS, "ranks": 2,
            "candidates": STEPS * GROUPS * N, "samples": SAMPLES, "picks": STEPS * GROUPS * K,
            "scored": STEPS * GROUPS * N, "dropped": 0, "picks_unscored": 0, "picks_unknown": 0, "not_finite": 0,
        }
    ]  # fmt: skip


@pytest.mark.parametrize("order", totals.TOTALS)
@pytest.mark.parametrize("lowest", [False, True])
def test_samples_and_documents(rows, order, lowest):
    log, plain = rows
    per_sample = added_up(plain, lambda row: [(row["sample_id"], 1)])
    table = totals.samples(log, order, lowest, top=7)
    assert_added_up(table, "sample_id", per_sample)
    best = sorted((of[order] for of in per_sample.values()), reverse=not lowest)[:7]
    assert table[order].to_pylist() == pytest.approx(best, rel=1e-6)

    per_document = added_up(plain, lambda row: [(s.document, share) for s, share in shares(row["sample_id"])])
    table = totals.documents(log, order, lowest, top=7)
    assert_added_up(table, "document", per_document)
    best = sorted((of[order] for of in per_document.values()), reverse=not lowest)[:7]
    assert table[order].to_pylist() == pytest.approx(best, rel=1e-6)


def test_documents_of_one_source(rows):
    log, _ = rows
    table = totals.documents(log, top=100, source="mail")
    assert sorted(table["document"].to_pylist()) == [f"doc-{d:02d}" for d in range(SAMPLES // 4) if d % 3 == 2]
    assert set(table["source"].to_pylist()) == {"mail"}


def test_a_sliver_of_a_document_has_no_mean_to_be_compared(tmp_path):
    log = SelectionLog(tmp_path, rank=0)
    log.append(0, 0, [0, 1], [0], learning_rate=1.0, score=np.array([9.0, 1.0]))
    log.close()
    spans = spans_table(
        [(0, [Span("a", "s", 0, 70), Span("sliver", "s", 0, 30)], None), (1, [Span("b", "s", 0, 9)], None)]
    )
    with OpenLog(tmp_path, spans) as opened:
        assert totals.documents(opened)["document"].to_pylist() == ["a", "b"]
        assert "sliver" in totals.documents(opened, "contribution")["document"].to_pylist()


def test_sources_add_up_to_the_run(rows):
    log, plain = rows
    expected = added_up(plain, by_source)
    table = totals.sources(log)
    assert table["source"].to_pylist() == sorted(expected, key=lambda s: -expected[s]["pick_rate"])
    assert_added_up(table, "source", expected)
    for row in table.to_pylist():
        assert row["pool_share"] == pytest.approx(expected[row["source"]]["offered"] / len(plain))
        assert row["picks_share"] == pytest.approx(expected[row["source"]]["picked"] / (STEPS * GROUPS * K))
        assert row["lift"] == pytest.approx(row["picks_share"] / row["pool_share"])
    assert sum(table["offered"].to_pylist()) == pytest.approx(len(plain))
    assert sum(table["contribution"].to_pylist()) == pytest.approx(
        sum(row["learning_rate"] / (GROUPS * K) * row["first_order"] for row in plain if row["pick"] >= 0)
    )


def test_what_is_not_finite_is_counted_and_left_out_of_means(tmp_path):
    log = SelectionLog(tmp_path, rank=0)
    scores = np.array([1.0, np.nan, np.inf, 3.0])
    losses = np.array([np.nan, np.nan, 4.0, 5.0])
    log.append(0, 0, [0, 1, 2, 3], [3], learning_rate=1.0, first_order=scores, score=scores)
    log.append(1, 0, [0, 1, 2, 3], [3], learning_rate=1.0, loss=losses)
    log.close()
    with OpenLog(tmp_path, write_spans()) as opened:
        (row,) = totals.summary(opened).to_pylist()
        assert (row["not_finite"], row["scored"]) == (2 + 2, 4)  # what is scored has a score, if only a NaN
        # Samples 0 and 3 have three quarters of their characters in doc-00, source prose.
        prose = next(r for r in totals.sources(opened).to_pylist() if r["source"] == "prose")
        assert prose["total_score"] == pytest.approx(0.75 * 1.0 + 0.75 * 3.0)
        assert prose["mean_score"] == pytest.approx(2.0)


def test_an_unknown_column_to_order_by(rows):
    with pytest.raises(ValueError, match="cannot order by 'score': the columns to order by are offered, picked"):
        totals.samples(rows[0], order="score")
