"""Every question to a log behind a prefilter, against numbers worked out by hand (see `write_cascade`)."""

from math import sqrt

import numpy as np
import pytest

from selection.attribution import foresight, totals, trends
from selection.attribution.bias import bias
from selection.attribution.history import document_samples, sample_history, step_contents
from selection.attribution.open_log import OpenLog
from selection.attribution.overlap import agreement, agreement_by_sample, sources_moved
from selection.log.writer import SelectionLog
from tests.helpers.log_example import cascade_spans, write_cascade

OFF = [3]


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cascade")
    write_cascade(folder)
    with OpenLog(folder, cascade_spans()) as opened:
        yield opened


def by(table, key):
    return {row[key]: row for row in table.to_pylist()}


def test_the_summary_tells_dropped_from_scored(log):
    (row,) = totals.summary(log).to_pylist()
    names = ("candidates", "samples", "picks", "scored", "dropped", "picks_unscored", "picks_unknown")
    assert [row[name] for name in names] == [24, 16, 8, 8, 12, 4, 4]


def test_what_an_unscored_pick_contributed_is_unknown(log):
    rows = by(totals.samples(log, top=100), "sample_id")
    # Of a step's update every pick is half: 0.5 / 2 of its score.
    assert {i: rows[i]["contribution"] for i in (0, 1, 5, 8, 10, 12)} == {0: 0, 1: 0.75, 5: 1, 8: 1.25, 10: 1.5, 12: 0}
    assert rows[3]["contribution"] is rows[4]["contribution"] is None  # picked, never scored
    assert [rows[10][name] for name in ("offered", "scored", "picked", "picked_unknown")] == [2, 1, 2, 1]
    assert [rows[3][name] for name in ("offered", "scored", "picked", "picked_unknown")] == [2, 0, 1, 1]
    assert rows[10]["mean_score"] == 6
    assert rows[10]["second_order"] is None  # no interactions were measured
    ordered = totals.samples(log, top=100)["sample_id"].to_pylist()
    assert ordered[:4] == [10, 8, 5, 1]
    assert ordered[-2:] == [3, 4]  # what is unknown comes last


def test_sources_count_all_that_was_drawn(log):
    rows = by(totals.sources(log), "source")
    a = {name: rows["a"][name] for name in ("offered", "scored", "picked", "picked_unknown", "contribution")}
    b = {name: rows["b"][name] for name in ("offered", "scored", "picked", "picked_unknown", "contribution")}
    assert a == {"offered": 14, "scored": 6, "picked": 4, "picked_unknown": 2, "contribution": 1.75}
    assert b == {"offered": 10, "scored": 2, "picked": 4, "picked_unknown": 2, "contribution": 2.75}
    assert rows["a"]["pick_rate"] == pytest.approx(4 / 14)
    assert rows["b"]["lift"] == pytest.approx((4 / 8) / (10 / 24))
    assert rows["a"]["mean_score"] == pytest.approx((1 + 3 + 2 + 4 - 1 + 2) / 6)


def test_documents_without_a_score_are_not_compared_by_it(log):
    by_score = totals.documents(log, "mean_score", top=100)["document"].to_pylist()
    assert by_score == ["doc-10", "doc-8", "doc-5", "doc-1", "doc-0", "doc-2"]
    assert totals.documents(log, "pick_rate", top=100).num_rows == 16
    (row,) = document_samples(log, "doc-10").to_pylist()
    assert [row[name] for name in ("offered", "picked", "scored", "contribution")] == [2, 2, 1, 1.5]
    assert document_samples(log, "doc-3")["contribution"].to_pylist() == [None]


def test_over_time(log):
    rows = [row for row in trends.over_time(log, windows=2).to_pylist() if row["source"] == "a"]
    assert [(row["offered"], row["picked"], row["mean_score"]) for row in rows] == [(8, 2, 2.5), (6, 2, 0.5)]


def test_returning_samples_are_those_scored_again(log):
    # Samples 8 and 10 came twice as well, but were scored once.
    (row,) = trends.returning(log).to_pylist()
    assert (row["steps_from"], row["pairs"], row["same_choice"]) == (2, 2, 1)
    assert row["correlation"] == pytest.approx(-1)


def test_bias_by_loss_is_of_what_was_scored_and_else_of_what_was_drawn(log):
    sums = {}
    for row in bias(log).to_pylist():
        offered, picked = sums.get(row["feature"], (0, 0))
        sums[row["feature"]] = offered + row["offered"], picked + row["picked"]
    assert sums["loss"] == (8, 4)
    assert sums["length"] == sums["rarity"] == (24, 8)


def test_scores_compete_with_scores_and_predictions_with_predictions(log):
    def contents(step):
        return [
            (row["sample_id"], row["pick"], row["rank_in_group"], row["candidates"], row["margin"])
            for row in step_contents(log, step).to_pylist()
        ]

    assert contents(0) == [
        (5, 0, 1, 4, 2), (1, 1, 2, 4, 1), (2, -1, 3, 4, -1), (0, -1, 4, 4, -2), (3, -2, 4, 6, None),
        (4, -2, 5, 6, None),
    ]  # fmt: skip
    assert contents(1) == [
        (8, 0, 1, 6, 5), (10, 1, 2, 6, 4), (9, -2, 3, 6, -4), (11, -2, 4, 6, -5), (7, -2, 5, 6, -6), (6, -2, 6, 6, -7),
    ]  # fmt: skip
    # Switched off, it chose nothing: there was no bar.
    assert contents(3) == [
        (3, 0, 6, 6, None), (4, 1, 5, 6, None), (15, -2, 1, 6, None), (14, -2, 2, 6, None), (1, -2, 3, 6, None),
        (5, -2, 4, 6, None),
    ]  # fmt: skip


def test_what_won_instead(log):
    assert sample_history(log, 3)["lost_to"].to_pylist() == [[1, 5], None]
    assert sample_history(log, 9)["lost_to"].to_pylist() == [[10, 8]]


def test_two_cascades(log, tmp_path):
    write_cascade(tmp_path, sign=-1)
    with OpenLog(tmp_path, cascade_spans()) as other:
        (row,) = agreement(log, other).to_pylist()
        assert [row[n] for n in ("groups", "candidates", "picks_first", "picks_second", "picks_both")] == [
            4,
            24,
            8,
            8,
            4,
        ]
        assert row["overlap"] == 0.5
        assert row["overlap_by_chance"] == pytest.approx(2 / 6)
        assert row["score_correlation"] == pytest.approx(-1)
        (row,) = agreement_by_sample(log, other).to_pylist()
        assert [row[n] for n in ("samples", "picked_first", "picked_second", "picked_both")] == [16, 6, 6, 4]
        moved = by(sources_moved(log, other), "source")
        assert (moved["a"]["share_first"], moved["a"]["share_second"]) == (4 / 8, 6 / 8)


def test_correlations_are_those_of_the_shortlists(log):
    rows = foresight.correlations(log).to_pylist()
    assert [(row["step"], row["groups"]) for row in rows] == [(0, 1), (2, 1)]
    assert [row["correlation"] for row in rows] == pytest.approx([-7 / sqrt(14 * 5), -0.5 / sqrt(0.05 * 30)])


def test_correlations_are_means_over_groups_whatever_the_score_is(tmp_path):
    log = SelectionLog(tmp_path, rank=0)
    predicted = np.array([1.0, 2.0, 3.0])
    for group, norms in enumerate([[1, 2, 3], [3, 2, 1], [1, 2, 3], [2, 2, 2], [1, np.nan, 3]]):
        norms = np.array(norms, float)
        log.append(0, group, [0, 1, 2], [0], learning_rate=1.0, self_norm=norms, score=norms, predicted=predicted)
    log.close()
    with OpenLog(tmp_path) as opened:
        (row,) = foresight.correlations(opened).to_pylist()
    assert row["groups"] == 4  # equal norms have no correlation
    assert row["correlation"] == pytest.approx((1 - 1 + 1 + 1) / 4)


def test_predictions_over_time(log):
    first, second = foresight.over_time(log, windows=2, off=OFF).to_pylist()
    assert (first["first_step"], first["last_step"], second["first_step"], second["last_step"]) == (0, 1, 2, 3)
    assert (first["scored_steps"], first["unscored_share"], first["off_share"]) == (1, 0.5, 0)
    assert second["off_share"] == 0.5
    (whole,) = foresight.over_time(log, windows=1).to_pylist()
    one, other = -7 / sqrt(70), -0.5 / sqrt(1.5)
    assert whole["correlation"] == pytest.approx((one + other) / 2)
    assert whole["standard_error"] == pytest.approx(abs(one - other) / 2)
    assert whole["off_share"] == 0


def test_what_became_of_what_was_drawn(log):
    names = ("steps", "outcome", "candidates", "share", "mean_predicted", "mean_score")
    rows = [tuple(row[name] for name in names) for row in foresight.outcomes(log, OFF).to_pylist()]
    assert [row[:3] for row in rows] == [
        ("scored", "picked", 4), ("scored", "rejected", 4), ("scored", "dropped", 4), ("between", "picked", 2),
        ("between", "dropped", 4), ("between, prefilter off", "picked", 2), ("between, prefilter off", "dropped", 4),
    ]  # fmt: skip
    assert [row[3] for row in rows] == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1 / 3, 2 / 3, 1 / 3, 2 / 3])
    predicted = [(1 + 5 + 0.3 + 0.4) / 4, (6 + 4 + 0.5 + 0.2) / 4, (3 + 2 + 0.1) / 4, 8.5, 2.5, 1.5, 4.5]
    assert [row[4] for row in rows] == pytest.approx(predicted)
    assert [row[5] for row in rows] == [(4 + 3 + 6 + 5) / 4, (1 + 2 - 1 + 2) / 4, *[None] * 5]


def test_the_prefilter_by_source(log):
    rows = by(foresight.by_source(log, OFF), "source")
    names = ("pool_share", "shortlist_rate", "scored_pick_rate", "between_pick_rate", "mean_predicted")
    assert [rows["a"][name] for name in names] == pytest.approx([10 / 18, 6 / 8, 2 / 8, 0, 24.7 / 10])
    assert [rows["b"][name] for name in names] == pytest.approx([8 / 18, 2 / 4, 2 / 4, 2 / 4, 24.8 / 8])
    assert list(rows) == ["b", "a"]
    with_all = by(foresight.by_source(log), "source")
    assert with_all["a"]["between_pick_rate"] == pytest.approx(2 / 6)  # the steps between and the one that was off
