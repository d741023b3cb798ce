"""What changes with time, against a plain loop over the rows of a small log."""

import math
from collections import defaultdict

import numpy as np
import pytest

from selection.attribution import trends
from tests.helpers.log_example import STEPS, N
from tests.selection.attribution.loops import added_up, by_source, shares


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
            by_source,
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
