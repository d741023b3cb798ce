"""Pick rates by feature against a plain loop over the rows of a small log."""

from collections import defaultdict

import numpy as np
import pytest

from selection.attribution.bias import bias
from tests.helpers.log_example import SAMPLES, spans_of
from tests.selection.attribution.loops import shares


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
