"""What the rows of the small log add up to, in plain Python."""

import math
from collections import defaultdict

import pytest

from selection.attribution import totals
from tests.helpers.log_example import CURVATURE, spans_of


def shares(sample_id):
    """(span, share) of a sample."""
    spans = spans_of(sample_id)
    characters = sum(span.last - span.first for span in spans)
    return [(span, (span.last - span.first) / characters) for span in spans]


def by_source(row):
    """The parts of a row that belong to sources, for `added_up`."""
    return [(span.source, share) for span, share in shares(row["sample_id"])]


def picks_of_steps(rows):
    counts = defaultdict(int)
    for row in rows:
        counts[row["step"]] += row["pick"] >= 0
    return counts


def contribution(row, picks):
    """Of a pick, in a step of so many; None where it is not known."""
    if row["first_order"] is None or not math.isfinite(row["first_order"]):
        return None
    return row["learning_rate"] / picks * row["first_order"]


def second_order(row, picks):
    if row["interaction"] is None or row["self_norm"] is None:
        return None
    curved = row["interaction"] + row["self_norm"] ** 2
    return -((row["learning_rate"] / picks) ** 2) * CURVATURE / 2 * curved


def added_up(rows, parts):
    """What `parts(row)` -> [(key, share)] add up to; a sum of which nothing is known is None."""
    picks = picks_of_steps(rows)
    sums = defaultdict(lambda: defaultdict(float))
    known = defaultdict(lambda: defaultdict(float))

    def add(key, name, share, value):
        if value is not None:
            sums[key][name] += share * value
            known[key][name] += share

    for row in rows:
        for key, share in parts(row):
            of = sums[key]
            of["offered"] += share
            of["scored"] += share * (row["score"] is not None)
            finite = row["score"] is not None and math.isfinite(row["score"])
            add(key, "total_score", share, row["score"] if finite else None)
            of["picked"] += share * (row["pick"] >= 0)
            if row["pick"] >= 0:
                worth = contribution(row, picks[row["step"]])
                of["picked_unknown"] += share * (worth is None)
                add(key, "contribution", share, worth)
                add(key, "second_order", share, second_order(row, picks[row["step"]]))
    for key, of in sums.items():
        of["pick_rate"] = of["picked"] / of["offered"]
        of["picked_unknown"] += 0
        of["mean_score"] = of["total_score"] / known[key]["total_score"] if known[key]["total_score"] else None
        if not known[key]["total_score"]:
            of["total_score"] = None
        for name in ("contribution", "second_order"):
            if of["picked"] and not known[key][name]:
                of[name] = None
    return sums


def assert_added_up(table, key, expected):
    for row in table.to_pylist():
        for name, value in row.items():
            if name in totals.TOTALS:
                wanted = expected[row[key]][name]
                near = None if wanted is None else pytest.approx(wanted, rel=1e-6, abs=1e-12)
                assert value == near, (row[key], name)
