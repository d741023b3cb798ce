"""One sample, one step, one document, against a plain loop over the rows of a small log."""

import numpy as np
import pyarrow as pa
import pytest

from selection.attribution import totals
from selection.attribution.history import document_samples, fates, first_samples, sample_history, step_contents
from selection.attribution.open_log import OpenLog
from selection.log.writer import SelectionLog
from tests.helpers.log_example import K, N


def test_why_a_sample_was_left_out(rows):
    log, plain = rows
    for sample_id in (0, 17, 63):
        offers = [row for row in plain if row["sample_id"] == sample_id]
        table = sample_history(log, sample_id).to_pylist()
        assert [row["step"] for row in table] == [row["step"] for row in offers]
        for row, offer in zip(table, offers, strict=True):
            group = [r for r in plain if (r["step"], r["group"]) == (offer["step"], offer["group"])]
            scores = sorted((r["first_order"] for r in group), reverse=True)
            assert (row["group"], row["pick"], row["score"]) == (
                offer["group"], offer["pick"], offer["first_order"],
            )  # fmt: skip
            assert row["candidates"] == N
            assert row["rank_in_group"] == scores.index(offer["first_order"]) + 1
            bar = scores[K] if offer["pick"] >= 0 else scores[K - 1]
            assert row["margin"] == pytest.approx(offer["first_order"] - bar, abs=1e-6)
            winners = sorted((r for r in group if r["pick"] >= 0), key=lambda r: r["first_order"])
            assert row["lost_to"] == (None if offer["pick"] >= 0 else [r["sample_id"] for r in winners])
    with pytest.raises(ValueError, match="sample 5000 is not in the selection log"):
        sample_history(log, 5000)


def test_in_a_step_that_a_prefilter_picked_in_its_predictions_are_compared(tmp_path):
    log = SelectionLog(tmp_path, rank=0)
    log.append(0, 0, [4, 5, 6], [2], learning_rate=1.0, predicted=np.array([1.0, 3.0, 7.0]))
    log.close()
    with OpenLog(tmp_path) as opened:
        rows = {row["sample_id"]: row for row in step_contents(opened, 0).to_pylist()}
        assert [rows[i]["rank_in_group"] for i in (4, 5, 6)] == [3, 2, 1]
        assert [rows[i]["margin"] for i in (4, 5, 6)] == [-6.0, -4.0, 4.0]
        assert sample_history(opened, 4)["lost_to"].to_pylist() == [[6]]
        (summary,) = totals.summary(opened).to_pylist()
        assert (summary["scored"], summary["picks_unscored"], summary["picks_unknown"]) == (0, 1, 1)


def test_where_the_groups_of_a_step_compete_the_bar_is_that_of_the_step(tmp_path):
    """Group 1 has no pick of its own: what its candidates lost to was picked in group 0."""
    log, rate = SelectionLog(tmp_path, rank=0), {"learning_rate": 1.0}
    log.append(0, 0, [4, 5, 6], [2, 0, 1], **rate, score=np.array([7.0, 5.0, 9.0]), order=[0, 1, 2])
    log.append(0, 1, [7, 8, 9], [], **rate, score=np.array([1.0, 4.0, -1.0]), order=[])
    log.close()
    with OpenLog(tmp_path) as opened:
        rows = {row["sample_id"]: row for row in step_contents(opened, 0).to_pylist()}
        assert [rows[i]["pick"] for i in range(4, 10)] == [1, 2, 0, -1, -1, -1]
        assert [rows[i]["margin"] for i in range(4, 10)] == [3.0, 1.0, 5.0, -4.0, -1.0, -6.0]
        assert [rows[i]["rank_in_group"] for i in range(4, 10)] == [2, 3, 1, 5, 4, 6]
        assert sample_history(opened, 8)["lost_to"].to_pylist() == [[5, 4, 6]]


def test_what_was_in_a_step(rows):
    log, plain = rows
    table = step_contents(log, 12).to_pylist()
    expected = [row for row in plain if row["step"] == 12]
    expected.sort(key=lambda r: (r["group"], r["pick"] < 0, r["pick"], -r["first_order"]))
    assert [(row["group"], row["sample_id"], row["pick"]) for row in table] == [
        (row["group"], row["sample_id"], row["pick"]) for row in expected
    ]
    with pytest.raises(ValueError, match=r"step 99 is not in the selection log: it has steps 0 to 29"):
        step_contents(log, 99)


def test_the_samples_of_a_document(rows):
    log, plain = rows
    table = document_samples(log, "doc-03").to_pylist()  # samples 12 to 15, and the end of 9
    assert [(row["sample_id"], row["first"], row["last"]) for row in table] == [
        (12, 0, 75), (13, 100, 200), (14, 200, 300), (15, 300, 375), (9, 400, 425),
    ]  # fmt: skip
    assert [row["share"] for row in table] == [0.75, 1.0, 1.0, 0.75, 0.25]
    for row in table:
        offers = [r for r in plain if r["sample_id"] == row["sample_id"]]
        assert row["offered"] == len(offers)
        assert row["picked"] == sum(r["pick"] >= 0 for r in offers)
    assert first_samples(log, ["doc-03", "doc-00"]) == {"doc-03": 12, "doc-00": 0}
    with pytest.raises(ValueError, match="document 'doc-99' is in no candidate"):
        document_samples(log, "doc-99")


def test_what_became_of_documents(rows):
    log, _ = rows
    known = totals.documents(log, "offered", top=10_000).to_pylist()
    names = [known[3]["document"], "never offered", known[0]["document"]]
    table = fates(log, pa.table({"group": [7, 7, 9], "document": names})).to_pylist()
    assert [(row["group"], row["document"]) for row in table] == list(zip([7, 7, 9], names, strict=True))
    for row, expected in ((table[0], known[3]), (table[2], known[0])):
        parts = document_samples(log, row["document"]).to_pylist()
        assert row["samples"] == len({part["sample_id"] for part in parts})
        for name in ("offered", "picked", "scored", "mean_score", "contribution"):
            assert row[name] == pytest.approx(expected[name]), name
    assert {table[1][name] for name in ("samples", "offered", "picked", "scored")} == {0}
    assert table[1]["mean_score"] is None
