"""One meaning of `score`, whatever a method ranks by: every method's small log against a plain loop over its rows."""

import numpy as np
import pytest

from selection.attribution import foresight, totals, trends
from selection.attribution.bias import bias
from selection.attribution.history import sample_history, step_contents
from selection.attribution.open_log import OpenLog
from selection.attribution.overlap import agreement
from selection.log.schema import DROPPED
from selection.log.writer import SelectionLog
from tests.helpers.log_example import CURVATURE, GROUPS, STEPS, K, N, write_log, write_spans
from tests.selection.attribution.loops import added_up, assert_added_up, by_source

# What each method's score is of a row; what of its picks is known: contribution, second order; whose losses compete.
SCORES = {
    "greats": lambda row: row["first_order"],
    "topk": lambda row: row["first_order"],
    "bottomk": lambda row: -row["first_order"],
    "gradnorm": lambda row: row["self_norm"],
    "maxloss": lambda row: row["loss"],
    "importance": lambda row: row["predicted"],
    "regular": lambda row: None,
}
AIMING = ("greats", "topk", "bottomk")


@pytest.fixture(scope="module", params=SCORES)
def logged(request, tmp_path_factory):
    """(method, its log opened, its rows)."""
    folder = tmp_path_factory.mktemp(request.param)
    rows = write_log(folder, method=request.param)
    with OpenLog(folder, write_spans(), curvature=CURVATURE) as log:
        yield request.param, log, rows


def test_a_candidate_is_scored_where_the_log_has_a_score(logged):
    method, log, rows = logged
    assert [row["score"] for row in rows] == [SCORES[method](row) for row in rows]
    found = log.ask('SELECT * FROM candidates ORDER BY step, "group", sample_id').to_pylist()
    rows = sorted(rows, key=lambda row: (row["step"], row["group"], row["sample_id"]))
    for row, logged_row in zip(found, rows, strict=True):
        assert row["score"] == logged_row["score"]
        assert row["is_scored"] == row["step_scored"] == (method != "regular")
        assert row["by_prediction"] == (method == "importance")
        assert row["is_pick"] == (logged_row["pick"] >= 0)
    assert DROPPED not in {row["pick"] for row in found}  # what importance leaves out was ranked with the rest


def test_totals_are_those_of_a_loop(logged):
    method, log, rows = logged
    picks = sum(row["pick"] >= 0 for row in rows)
    (row,) = totals.summary(log).to_pylist()
    assert row["candidates"] == len(rows)
    assert (row["picks"], row["dropped"], row["not_finite"]) == (picks, 0, 0)
    assert row["scored"] == (0 if method == "regular" else len(rows))
    assert row["picks_unscored"] == (picks if method == "regular" else 0)
    assert row["picks_unknown"] == (0 if method in AIMING else picks)

    table = totals.sources(log)
    assert_added_up(table, "source", added_up(rows, by_source))
    known = {name: table[name].null_count < table.num_rows for name in ("mean_score", "contribution", "second_order")}
    assert known == {
        "mean_score": method != "regular",
        "contribution": method in AIMING,
        "second_order": method == "greats",
    }
    per_sample = added_up(rows, lambda row: [(row["sample_id"], 1)])
    assert_added_up(totals.samples(log, "mean_score", top=50), "sample_id", per_sample)


def test_a_contribution_is_of_first_order_whatever_ranks(logged):
    """So the picks of bottomk contribute what their negative scores say."""
    method, log, rows = logged
    picks = K * GROUPS
    expected = [
        row["learning_rate"] / picks * row["first_order"] if row["first_order"] is not None else None
        for row in rows
        if row["pick"] >= 0
    ]
    found = log.ask("SELECT contribution FROM candidates WHERE is_pick")["contribution"].to_pylist()
    if method not in AIMING:
        assert set(found) == set(expected) == {None}
    else:
        assert sorted(found) == pytest.approx(sorted(expected))
        assert (sum(found) > 0) == (method != "bottomk")


def test_picks_are_the_highest_scores_and_margins_say_by_how_much(logged):
    method, log, rows = logged
    if method == "regular":
        history = sample_history(log, 3).to_pylist()
        assert {(row["score"], row["margin"], row["rank_in_group"]) for row in history} == {(None, None, None)}
        return
    for step in (0, 13):
        for row in step_contents(log, step).to_pylist():
            group = [r for r in rows if (r["step"], r["group"]) == (step, row["group"])]
            ranked = sorted((SCORES[method](r) for r in group), reverse=True)
            assert row["candidates"] == N
            assert row["rank_in_group"] == ranked.index(row["score"]) + 1
            assert (row["rank_in_group"] <= K) == (row["pick"] >= 0)
            bar = ranked[K] if row["pick"] >= 0 else ranked[K - 1]
            assert row["margin"] == pytest.approx(row["score"] - bar, abs=1e-6)


def test_losses_are_compared_where_the_model_saw_more_than_the_picks(logged):
    method, log, rows = logged
    bins = [row for row in bias(log).to_pylist() if row["feature"] == "loss"]
    if method in ("importance", "regular"):
        assert bins == []
    else:
        assert sum(row["offered"] for row in bins) == len(rows)
        assert sum(row["picked"] for row in bins) == STEPS * GROUPS * K
    if method == "maxloss":
        assert [row["mean_score"] for row in bins] == sorted(row["mean_score"] for row in bins)


def test_trends_are_of_scores(logged):
    method, log, rows = logged
    (code,) = trends.over_time(log, windows=1, source="code").to_pylist()
    assert code["mean_score"] == pytest.approx(added_up(rows, by_source)["code"]["mean_score"])
    assert bool(trends.returning(log).num_rows) == (method != "regular")
    if method not in ("bottomk", "regular"):
        assert trends.early_and_late(log)["early_mean_score"].null_count == 0


def test_predictions_that_rank_by_themselves_foresaw_nothing(logged):
    method, log, rows = logged
    assert foresight.correlations(log).num_rows == 0
    (whole,) = foresight.over_time(log, windows=1).to_pylist()
    assert (whole["scored_steps"], whole["correlation"]) == (0, None)
    assert whole["unscored_share"] == (1 if method == "regular" else 0)
    if method == "importance":
        found = {row["outcome"]: row for row in foresight.outcomes(log).to_pylist()}
        assert {row["steps"] for row in found.values()} == {"scored"}
        for outcome, picked in (("picked", True), ("rejected", False)):
            own = [row["predicted"] for row in rows if (row["pick"] >= 0) == picked]
            assert found[outcome]["candidates"] == len(own)
            assert found[outcome]["mean_score"] == found[outcome]["mean_predicted"] == pytest.approx(np.mean(own))
        by_pick_rate = foresight.by_source(log).to_pylist()
        assert by_pick_rate[0]["source"] == "code"
        expected = added_up(rows, by_source)
        for row in by_pick_rate:
            assert row["scored_pick_rate"] == pytest.approx(expected[row["source"]]["pick_rate"])
            assert (row["shortlist_rate"], row["between_pick_rate"]) == (1, None)


def test_two_methods_are_compared_by_how_each_ranks(tmp_path):
    for method in ("topk", "bottomk", "maxloss"):
        write_log(tmp_path / method, method=method)
    with OpenLog(tmp_path / "topk") as first, OpenLog(tmp_path / "bottomk") as second:
        (row,) = agreement(first, second).to_pylist()
        assert (row["score_correlation"], row["overlap"]) == (pytest.approx(-1), 0)
    with OpenLog(tmp_path / "topk") as first, OpenLog(tmp_path / "maxloss") as second:
        (row,) = agreement(first, second).to_pylist()
        assert -1 < row["score_correlation"] < 1


def test_a_filter_that_is_not_trusted_scores_nothing_in_that_step(tmp_path):
    """As importance logs it: the first that were drawn are trained on, and nothing says that they are the best."""
    log = SelectionLog(tmp_path, rank=0)
    predicted = np.array([1.0, 4.0, 3.0, 2.0])
    for step, picks in enumerate([[1, 2], [0, 1]]):
        log.append(step, 0, [4, 5, 6, 7], picks, learning_rate=1.0, measured=picks, loss=np.array([7.0, 8.0]),
                   predicted=predicted, by_prediction=step == 0)  # fmt: skip
    log.close()
    with OpenLog(tmp_path, write_spans()) as opened:
        (row,) = totals.summary(opened).to_pylist()
        assert [row[name] for name in ("scored", "dropped", "picks_unscored", "picks_unknown")] == [4, 2, 2, 4]
        kinds = {(row["steps"], row["outcome"]) for row in foresight.outcomes(opened, off=[1]).to_pylist()}
        assert kinds == {
            ("scored", "picked"), ("scored", "rejected"), ("between, prefilter off", "picked"),
            ("between, prefilter off", "dropped"),
        }  # fmt: skip
        margins = {row["sample_id"]: row["margin"] for row in step_contents(opened, 0).to_pylist()}
        assert margins == {5: 2, 6: 1, 7: -1, 4: -2}
        assert {row["margin"] for row in step_contents(opened, 1).to_pylist()} == {None}


def test_a_shortlist_of_maxloss_behind_a_prefilter(tmp_path):
    """Its scores are losses of the shortlist: foreseen or not, what a pick contributed is unknown."""
    log, rng = SelectionLog(tmp_path, rank=0), np.random.default_rng(0)
    expected = []
    for step in range(6):
        predicted, losses = rng.standard_normal(8), rng.standard_normal(4)
        shortlist = np.argsort(-predicted)[:4]
        picks = shortlist[np.argsort(-losses)[:2]]
        log.append(step, 0, np.arange(8), picks, learning_rate=1.0, measured=shortlist, predicted=predicted,
                   loss=losses, score=losses)  # fmt: skip
        expected.append(np.corrcoef(predicted[shortlist], losses)[0, 1])
    log.close()
    with OpenLog(tmp_path, write_spans()) as opened:
        assert foresight.correlations(opened)["correlation"].to_pylist() == pytest.approx(expected, rel=1e-5)
        (row,) = totals.summary(opened).to_pylist()
        assert [row[name] for name in ("scored", "dropped", "picks_unscored", "picks_unknown")] == [24, 24, 0, 12]
        bins = [row for row in bias(opened).to_pylist() if row["feature"] == "loss"]
        assert sum(row["offered"] for row in bins) == 24
