"""Every answer against a plain loop over the rows of a small log."""

import math
from collections import defaultdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selection.attribution import totals, trends
from selection.attribution.bias import bias
from selection.attribution.history import document_samples, first_samples, sample_history, step_contents
from selection.attribution.open_log import SPANS, OpenLog, spans_table
from selection.attribution.overlap import agreement, agreement_by_sample, sources_moved
from selection.log.writer import SelectionLog
from tests.helpers.log_example import GROUPS, SAMPLES, STEPS, K, N, Span, spans_of, write_log, write_spans

CURVATURE = 2.0


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("log")
    rows = write_log(folder)
    with OpenLog(folder, write_spans(), curvature=CURVATURE) as log:
        yield log, rows


def step_size(row):
    return row["learning_rate"] / (GROUPS * K)


def shares(sample_id):
    """(span, share) of a sample."""
    spans = spans_of(sample_id)
    characters = sum(span.last - span.first for span in spans)
    return [(span, (span.last - span.first) / characters) for span in spans]


def added_up(rows, parts):
    """What `parts(row)` -> [(key, share)] add up to, in plain Python."""
    sums = defaultdict(lambda: defaultdict(float))
    for row in rows:
        for key, share in parts(row):
            of = sums[key]
            of["offered"] += share
            of["scored"] += share
            of["picked_unscored"] += 0
            of["total_score"] += share * row["first_order"]
            if row["pick"] >= 0:
                a = step_size(row)
                of["picked"] += share
                of["contribution"] += share * a * row["first_order"]
                curved = row["interaction"] + row["self_norm"] ** 2
                of["second_order"] -= share * a**2 * CURVATURE / 2 * curved
    for of in sums.values():
        of["pick_rate"] = of["picked"] / of["offered"]
        of["mean_score"] = of["total_score"] / of["offered"]
    return sums


def assert_added_up(table, key, expected):
    for row in table.to_pylist():
        for name, value in row.items():
            if name in totals.TOTALS:
                assert value == pytest.approx(expected[row[key]][name], rel=1e-6, abs=1e-12), (row[key], name)


def test_summary(rows):
    log, _ = rows
    assert totals.summary(log).to_pylist() == [
        {
            "first_step": 0, "last_step": STEPS - 1, "steps": STEPS, "groups": GROUPS, "ranks": 2,
            "candidates": STEPS * GROUPS * N, "samples": SAMPLES, "picks": STEPS * GROUPS * K,
            "scored": STEPS * GROUPS * N, "dropped": 0, "picks_unscored": 0, "not_finite": 0,
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
    log.append(0, 0, [0, 1], [0], learning_rate=1.0, first_order=np.array([9.0, 1.0]))
    log.close()
    spans = spans_table(
        [(0, [Span("a", "s", 0, 70), Span("sliver", "s", 0, 30)], None), (1, [Span("b", "s", 0, 9)], None)]
    )
    with OpenLog(tmp_path, spans) as opened:
        assert totals.documents(opened)["document"].to_pylist() == ["a", "b"]
        assert "sliver" in totals.documents(opened, "contribution")["document"].to_pylist()


def test_sources_add_up_to_the_run(rows):
    log, plain = rows
    expected = added_up(plain, lambda row: [(span.source, share) for span, share in shares(row["sample_id"])])
    table = totals.sources(log)
    assert table["source"].to_pylist() == sorted(expected, key=lambda s: -expected[s]["pick_rate"])
    assert_added_up(table, "source", expected)
    for row in table.to_pylist():
        assert row["pool_share"] == pytest.approx(expected[row["source"]]["offered"] / len(plain))
        assert row["picks_share"] == pytest.approx(expected[row["source"]]["picked"] / (STEPS * GROUPS * K))
        assert row["lift"] == pytest.approx(row["picks_share"] / row["pool_share"])
    assert sum(table["offered"].to_pylist()) == pytest.approx(len(plain))
    assert sum(table["contribution"].to_pylist()) == pytest.approx(
        sum(step_size(row) * row["first_order"] for row in plain if row["pick"] >= 0)
    )


@pytest.mark.parametrize("windows", [3, 7, 30])
def test_over_time(rows, windows):
    log, plain = rows
    expected = added_up(
        plain,
        lambda row: [
            ((row["step"] * windows // STEPS, span.source), share) for span, share in shares(row["sample_id"])
        ],
    )
    table = trends.over_time(log, windows).to_pylist()
    assert len(table) == len(expected)
    starts = sorted({row["first_step"] for row in table})
    assert len(starts) == windows
    assert [row["last_step"] + 1 for row in table if row["source"] == "code"] == [*starts[1:], STEPS]
    for row in table:
        of = expected[starts.index(row["first_step"]), row["source"]]
        for name in ("offered", "picked", "pick_rate", "mean_score"):
            assert row[name] == pytest.approx(of[name], rel=1e-6)
    one = trends.over_time(log, windows, source="code").to_pylist()
    assert one == [row for row in table if row["source"] == "code"]


def test_early_and_late(rows):
    log, plain = rows
    third = STEPS // 3
    for name, steps in (("early", range(third)), ("late", range(STEPS - third, STEPS))):
        expected = added_up(
            [row for row in plain if row["step"] in steps],
            lambda row: [(span.source, share) for span, share in shares(row["sample_id"])],
        )
        for row in trends.early_and_late(log).to_pylist():
            assert row[f"{name}_pick_rate"] == pytest.approx(expected[row["source"]]["pick_rate"])
            assert row[f"{name}_mean_score"] == pytest.approx(expected[row["source"]]["mean_score"], rel=1e-6)
            assert row["change"] == pytest.approx(row["late_pick_rate"] - row["early_pick_rate"])


def test_returning_samples(rows):
    log, plain = rows
    groups, seen, pairs = defaultdict(list), {}, defaultdict(list)
    for row in plain:
        groups[row["step"], row["group"]].append(row["first_order"])
    for row in plain:  # in order of steps
        beaten = sum(score < row["first_order"] for score in groups[row["step"], row["group"]])
        now = (row["step"], beaten / (N - 1), row["pick"] >= 0)
        if row["sample_id"] in seen and seen[row["sample_id"]][0] < row["step"]:
            before = seen[row["sample_id"]]
            pairs[int(math.log2(now[0] - before[0]))].append((now[1], before[1], now[2] == before[2]))
        seen[row["sample_id"]] = now
    table = trends.returning(log).to_pylist()
    assert [row["steps_from"] for row in table] == [2**power for power in sorted(pairs)]
    for row in table:
        found = np.array(pairs[int(math.log2(row["steps_from"]))])
        assert row["pairs"] == len(found)
        assert row["steps_to"] == 2 * row["steps_from"] - 1
        assert row["same_choice"] == pytest.approx(found[:, 2].mean())
        assert row["correlation"] == pytest.approx(np.corrcoef(found[:, 0], found[:, 1])[0, 1], nan_ok=True)


def in_bin(value, found, bins):
    """Only the last bin has its upper end."""
    return found["low"] <= value < found["high"] or (found == bins[-1] and value == found["high"])


def test_bias_counts_every_candidate_and_finds_its_bins(rows):
    log, plain = rows
    table = bias(log).to_pylist()
    rarity = {row["sample_id"]: 8 + row["sample_id"] / SAMPLES for row in plain}
    for feature, value in (("loss", lambda row: row["loss"]), ("rarity", lambda row: rarity[row["sample_id"]])):
        bins = [row for row in table if row["feature"] == feature]
        assert len(bins) == 10
        assert sum(row["offered"] for row in bins) == len(plain)
        for found in bins:
            inside = [row for row in plain if in_bin(np.float32(value(row)), found, bins)]
            assert found["offered"] == len(inside)
            assert found["offered"] == pytest.approx(len(plain) / 10, rel=0.1)
            assert found["picked"] == sum(row["pick"] >= 0 for row in inside)
            assert found["mean_score"] == pytest.approx(np.mean([row["first_order"] for row in inside]), rel=1e-5)
    length = defaultdict(int)
    for span in (span for sample_id in range(SAMPLES) for span in spans_of(sample_id)):
        length[span.document] = max(length[span.document], span.last)
    positions = [row for row in table if row["feature"] == "position"]
    assert sum(row["offered"] for row in positions) == pytest.approx(len(plain))
    assert positions[0]["low"] == 0
    assert positions[-1]["high"] == pytest.approx(400 / 425)
    lengths = [row for row in table if row["feature"] == "length"]
    assert {row["low"] for row in lengths} | {row["high"] for row in lengths} == set(length.values())
    for found in lengths:
        inside = [
            (row, share)
            for row in plain
            for span, share in shares(row["sample_id"])
            if in_bin(length[span.document], found, lengths)
        ]
        assert found["offered"] == pytest.approx(sum(share for _, share in inside))
        assert found["picked"] == pytest.approx(sum(share for row, share in inside if row["pick"] >= 0))


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


def test_in_a_step_that_a_predictor_picked_in_its_scores_are_compared(tmp_path):
    log = SelectionLog(tmp_path, rank=0)
    log.append(0, 0, [4, 5, 6], [2], learning_rate=1.0, predicted=np.array([1.0, 3.0, 7.0]))
    log.close()
    with OpenLog(tmp_path) as opened:
        rows = {row["sample_id"]: row for row in step_contents(opened, 0).to_pylist()}
        assert [rows[i]["rank_in_group"] for i in (4, 5, 6)] == [3, 2, 1]
        assert [rows[i]["margin"] for i in (4, 5, 6)] == [-6.0, -4.0, 4.0]
        assert sample_history(opened, 4)["lost_to"].to_pylist() == [[6]]
        assert totals.summary(opened)["scored"][0].as_py() == 0


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


def test_two_runs(rows, tmp_path):
    log, plain = rows
    # The same candidates, other scores for all but the first group, and code no longer liked.
    with_other_scores = SelectionLog(tmp_path, rank=0)
    rng = np.random.default_rng(5)
    picks_both, correlations = 0, []
    for step in range(STEPS):
        for group in range(GROUPS):
            mine = [row for row in plain if (row["step"], row["group"]) == (step, group)]
            scores = np.array([row["first_order"] for row in mine])
            theirs = scores if group == 0 else rng.standard_normal(N)
            picks = np.argsort(-theirs)[:K]
            ids = [row["sample_id"] for row in mine]
            with_other_scores.append(step, group, ids, picks, learning_rate=0.1, first_order=theirs)
            picks_both += sum(mine[pick]["pick"] >= 0 for pick in picks)
            ranks = [np.argsort(np.argsort(values)) for values in (scores, theirs)]
            correlations.append(np.corrcoef(*ranks)[0, 1])
    with_other_scores.close()
    with OpenLog(tmp_path, write_spans()) as other:
        (row,) = agreement(log, other).to_pylist()
        assert (row["groups"], row["candidates"]) == (STEPS * GROUPS, len(plain))
        assert row["picks_first"] == row["picks_second"] == STEPS * GROUPS * K
        assert row["picks_both"] == picks_both
        assert row["overlap"] == picks_both / (STEPS * GROUPS * K)
        assert row["overlap_by_chance"] == pytest.approx(K / N)
        assert row["score_correlation"] == pytest.approx(np.mean(correlations))
        (row,) = agreement_by_sample(log, other).to_pylist()
        ever = {r["sample_id"] for r in plain if r["pick"] >= 0}
        assert (row["samples"], row["picked_first"]) == (SAMPLES, len(ever))
        moved = sources_moved(log, other)
        assert sum(moved["share_second"].to_pylist()) == pytest.approx(1)
        assert moved["source"][0].as_py() == "code"
        assert moved["change"][0].as_py() < -0.05
    with OpenLog(tmp_path / ".." / tmp_path.name, write_spans()) as itself, OpenLog(tmp_path) as again:
        (row,) = agreement(itself, again).to_pylist()
        assert (row["overlap"], row["score_correlation"]) == (1.0, pytest.approx(1.0))


def test_a_run_that_scores_nothing(tmp_path):
    write_log(tmp_path, scored=False)
    with OpenLog(tmp_path, write_spans()) as log:
        assert totals.summary(log)["scored"][0].as_py() == 0
        table = totals.sources(log)
        assert table["mean_score"].null_count == table.num_rows
        assert sum(table["picked"].to_pylist()) == pytest.approx(STEPS * GROUPS * K)
        assert trends.returning(log).num_rows == 0
        history = sample_history(log, 3).to_pylist()
        assert all(row["score"] is None and row["margin"] is None for row in history)
        assert {row["feature"] for row in bias(log).to_pylist()} == {"length", "position", "rarity"}


def test_what_is_not_finite_is_counted_and_left_out_of_means(tmp_path):
    log = SelectionLog(tmp_path, rank=0)
    scores = np.array([1.0, np.nan, np.inf, 3.0])
    log.append(0, 0, [0, 1, 2, 3], [3], learning_rate=1.0, first_order=scores)
    log.close()
    with OpenLog(tmp_path, write_spans()) as opened:
        assert totals.summary(opened)["not_finite"][0].as_py() == 2
        # Samples 0 and 3 have three quarters of their characters in doc-00, source prose.
        prose = next(r for r in totals.sources(opened).to_pylist() if r["source"] == "prose")
        assert prose["total_score"] == pytest.approx(0.75 * 1.0 + 0.75 * 3.0)
        assert prose["mean_score"] == pytest.approx(2.0)


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


def test_an_unknown_column_to_order_by(rows):
    with pytest.raises(ValueError, match="cannot order by 'score': the columns to order by are offered, picked"):
        totals.samples(rows[0], order="score")
