import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from scripts.bench.data.log import (
    DRAWN,
    PICKED,
    QUESTIONS,
    RANKS,
    SCORED,
    K,
    LogOptions,
    N,
    ask,
    main,
    write_rank,
    write_spans,
)
from selection.attribution.open_log import SPANS
from selection.log.reader import read_log


def test_the_made_up_log_is_a_log(tmp_path):
    options = LogOptions(candidates=RANKS * N * 9)
    written = write_rank(tmp_path, 3, options, flush_every=2)
    rows = read_log(tmp_path).to_pydict()
    assert len(rows["step"]) == options.steps * N == 9 * N
    assert sum(pick >= 0 for pick in rows["pick"]) == 9 * K
    assert set(rows["sample_id"]) == set(range(3 * options.lane, 4 * options.lane))
    assert None not in rows["predicted"] + rows["score"]
    assert set(rows["pick"]) == {-1, *range(K)}  # all competed
    by_score = sorted(zip(rows["step"], rows["score"], rows["pick"], strict=True), key=lambda row: (row[0], -row[1]))
    assert [pick for _, _, pick in by_score[:N]] == [*range(K), *[-1] * (N - K)]
    assert written.files == 1
    write_spans(tmp_path / "spans.parquet", options)
    spans = pq.read_table(tmp_path / "spans.parquet")
    assert spans.schema.equals(SPANS)
    assert set(spans["sample_id"].to_pylist()) == set(range(RANKS * options.lane))


def test_the_amortised_log_scores_few(tmp_path):
    options = LogOptions(candidates=RANKS * DRAWN * 9, amortised=True)
    write_rank(tmp_path, 3, options, flush_every=2)
    rows = read_log(tmp_path).to_pylist()
    assert len(rows) == 9 * DRAWN
    # Steps 0 and 8 are scored.
    assert sum(row["first_order"] is not None for row in rows) == 2 * SCORED
    assert sum(row["score"] is not None for row in rows) == 2 * SCORED
    scored = [(row["score"], row["pick"]) for row in rows if row["step"] == 8 and row["score"] is not None]
    assert [pick for _, pick in sorted(scored, reverse=True)] == [*range(PICKED), *[-1] * (SCORED - PICKED)]
    assert sum(row["loss"] is not None for row in rows) == 2 * SCORED + 7 * PICKED
    assert sum(row["pick"] >= 0 for row in rows) == 9 * PICKED
    assert all(row["predicted"] is not None for row in rows)
    best = sorted((row["predicted"] for row in rows if row["step"] == 1), reverse=True)[:PICKED]
    assert sorted((row["predicted"] for row in rows if row["step"] == 1 and row["pick"] >= 0), reverse=True) == best


def test_the_benchmark_times_writing_and_asking(capsys, monkeypatch):
    monkeypatch.setattr("scripts.bench.data.log.QUESTIONS", dict.fromkeys(["--ask sources", "--ask bias"]))
    assert main(["--candidates", str(RANKS * N * 3), "--step-seconds", "0.1"]) == 0
    out = capsys.readouterr().out
    for name in ("--ask sources", "--ask bias", "share of a step of 0.1 s", "bytes per candidate, all 6 quantities"):
        assert name in out


def test_the_log_is_asked_without_torch_in_memory():
    loaded = "import sys, scripts.bench.__main__, scripts.bench.data.log; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", loaded]).returncode == 0


@pytest.mark.parametrize("amortised", [False, True])
def test_every_question_can_be_asked(tmp_path, amortised):
    options = LogOptions(candidates=RANKS * DRAWN * 3, amortised=amortised)
    write_rank(tmp_path / "selection", 0, options, flush_every=10)
    write_spans(tmp_path / "spans.parquet", options)
    for name in QUESTIONS:
        assert min(ask(tmp_path, name)) > 0
