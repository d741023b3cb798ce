"""What a comparison runs and what it does not, and one of real runs."""

import csv
import json
import math
import signal
import sys

import pytest

from scripts.compare import __main__ as compare
from scripts.compare.study import read_study
from scripts.train.options import read_config
from tests.scripts.compare.made_up import ALL, BASE, LOSSES, TABLES, Runs


def test_arms_are_tuned_by_val_on_the_first_seed_and_run_on_the_others_at_that_rate(do, tmp_path, capsys):
    runs = Runs(LOSSES, pace={"top": 2.0})
    assert do(runs, pictures=True) == 0
    assert runs.calls == [(name, False) for name in ALL]
    with open(tmp_path / "out" / "results.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 * 3
    assert {(r["arm"], r["learning_rate"]) for r in rows if r["tuned"] == "True"} == {
        ("regular", "0.001"),
        ("top", "0.002"),
    }
    assert rows[2] == {
        "arm": "regular", "learning_rate": "0.001", "seed": "0", "tuned": "True", "step": "4",
        "tokens": "256", "seconds": "4.0",
        "val_loss": "5.0", "test_loss": "6.0",
    }  # fmt: skip
    printed = capsys.readouterr().out
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines() if "|" in line]
    assert max(map(len, printed.splitlines())) <= 100
    assert ["regular", "1e-03", "2", "5.000 [5.000, 5.000]", "6.200 [6.000, 6.400]", "1"] in cells
    assert ["top", "2e-03", "2", "4.550 [4.500, 4.600]", "4.500 [4.000, 5.000]", "2"] in cells
    # 8 to 6.2: the falls of `regular` are 2 and 1.6 in 4 steps, those of `top` 4 and 3, at 2 seconds a step.
    assert ["regular", "not reached (1 of 2 runs)", "–", "–"] in cells
    assert ["top", "2 [2, 2]", "4.2 [3.6, 4.8]", "1.05 [0.90, 1.20]"] in cells
    # After 4 seconds `top` has done 2 of 4 steps.
    assert ["top", "6.250 [6.000, 6.500]", "+0.050"] in cells
    assert ["regular", "**5.000**", "5.500"] in cells
    assert "- regular: its best learning rate is the lowest of the grid, so a lower one may be better." in printed
    assert "- top: its best learning rate is the highest of the grid, so a higher one may be better." in printed
    page = (tmp_path / "out" / "README.md").read_text()
    assert printed[printed.index("Cells are") :].strip() in page
    assert f"python -m scripts.compare --config {tmp_path / 'study.toml'}" in page
    assert "1 rank of " in page
    assert TABLES.strip() in page
    assert (tmp_path / "out" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_finished_is_not_run_again_and_what_was_interrupted_is_resumed(do, tmp_path, capsys):
    first = Runs(LOSSES, ends={("top", 2e-3, 0): "interrupted"})
    assert do(first) == 130
    assert [name for name, _ in first.calls] == ALL[:4]
    assert "the same command goes on" in capsys.readouterr().err
    partial = (tmp_path / "out" / "README.md").read_text()
    assert "- top: 1 of 2 learning rates have run." in partial
    second = Runs(LOSSES)
    assert do(second) == 0
    assert second.calls == [(ALL[3], True), (ALL[4], False), (ALL[5], False)]
    whole = (tmp_path / "out" / "README.md").read_text()
    third = Runs(LOSSES)
    assert do(third) == 0
    assert third.calls == []
    assert (tmp_path / "out" / "README.md").read_text() == whole


def test_some_arms_in_the_order_given(do, capsys):
    runs = Runs(LOSSES)
    assert do(runs, "--arms", "top", "regular") == 0
    assert runs.calls[0][0] == "top/lr-1e-03-seed-0"
    assert "final one of top" in " ".join(capsys.readouterr().out.split())


def test_a_learning_rate_that_diverges_is_the_worst_and_stops_nothing(do, capsys):
    losses = LOSSES | {("regular", 1e-3, 0): (math.nan, math.nan), ("regular", 2e-3, 1): (5.4, 4.2)}
    runs = Runs(losses, ends={("top", 1e-3, 0): "diverged", ("top", 2e-3, 0): "diverged"})
    assert do(runs) == 0
    assert [name for name, _ in runs.calls] == [*ALL[:4], "regular/lr-2e-03-seed-1"]
    printed = capsys.readouterr().out
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines() if "|" in line]
    assert ["regular", "diverged", "**5.500**"] in cells
    assert ["top", "diverged", "diverged"] in cells
    assert ["top", "diverged", "0", "–", "–", "–"] in cells
    assert "- top: diverged at every learning rate." in printed
    again = Runs(losses)
    assert do(again) == 0
    assert again.calls == []


def test_a_run_that_fails_stops_the_comparison_and_is_named(do, tmp_path, capsys):
    runs = Runs(LOSSES, ends={("top", 1e-3, 0): "failed"})
    assert do(runs) == 1
    assert len(runs.calls) == 2
    told = capsys.readouterr().err
    log = tmp_path / "out" / "top" / "lr-1e-03-seed-0.log"
    assert told == (f"error: top/lr-1e-03-seed-0 ended before its last step, see {log}: error: the disk is full\n")


INTERRUPTED = """
import os, signal, time
def told(*_):
    print("told", flush=True)
    raise SystemExit(0)
signal.signal(signal.SIGTERM, told)
signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a run has it that is started in the background of a script
os.kill(os.getppid(), signal.SIGINT)
time.sleep(60)
"""


@pytest.fixture
def interruptible():
    """Also where the tests themselves were started with SIGINT ignored, in the background of a script."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_reaches_the_run_which_is_waited_for(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        compare.launch([sys.executable, "-c", INTERRUPTED], tmp_path / "log")
    assert (tmp_path / "log").read_text() == "told\n"


def test_real_runs(study_file, dataset, tmp_path, capsys, monkeypatch):
    """Two arms at one learning rate; then one of them on another seed, which alone is run."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    study_file.write_text(BASE + TABLES.replace("[1e-3, 2e-3]", "[1e-3]"))
    command = ["--config", str(study_file), "--data.path", str(dataset), "--out", str(tmp_path / "out")]
    assert compare.main(command) == 0
    folders = [tmp_path / "out" / arm / "lr-1e-03-seed-0" for arm in ("regular", "top")]
    before = [(folder / "metrics.jsonl").stat().st_mtime_ns for folder in folders]
    assert compare.main([*command, "--arms", "regular", "--seeds", "0", "1"]) == 0
    assert [(folder / "metrics.jsonl").stat().st_mtime_ns for folder in folders] == before
    study = read_study([study_file], tmp_path / "out", data_path=str(dataset))
    for arm, folder in zip(study.arms, folders, strict=True):
        assert study.trial(arm, 1e-3, 0).config == read_config(folder / "config.toml")
    with open(tmp_path / "out" / "results.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["arm"], row["seed"], row["step"]) for row in rows] == [
        ("regular", seed, step) for seed in "01" for step in "024"
    ]
    lines = [json.loads(line) for line in (folders[0] / "metrics.jsonl").read_text().splitlines()]
    final = next(line for line in reversed(lines) if "val_loss" in line)
    assert (float(rows[2]["val_loss"]), float(rows[2]["seconds"])) == (final["val_loss"], final["seconds"])
    assert "| regular |" in capsys.readouterr().out
    with open(tmp_path / "out" / "picked.csv") as file:
        rows = list(csv.DictReader(file))
    parts = {(row["arm"], row["first_step"]) for row in rows}
    assert {arm for arm, _ in parts} == {"regular"}  # what the last command named
    for arm, first in parts:
        shares = {r["source"]: float(r["share"]) for r in rows if (r["arm"], r["first_step"]) == (arm, first)}
        assert set(shares) <= {"words", "noise"}
        assert sum(shares.values()) == pytest.approx(1)
    assert (tmp_path / "out" / "picked.png").read_bytes().startswith(b"\x89PNG")
