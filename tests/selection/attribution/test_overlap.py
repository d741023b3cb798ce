"""Two runs side by side, against a plain loop over the rows of two small logs."""

import numpy as np
import pytest

from selection.attribution.open_log import OpenLog
from selection.attribution.overlap import agreement, agreement_by_sample, sources_moved
from selection.log.writer import SelectionLog
from tests.helpers.log_example import GROUPS, SAMPLES, STEPS, K, N, write_spans


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
            with_other_scores.append(step, group, ids, picks, learning_rate=0.1, score=theirs)
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
