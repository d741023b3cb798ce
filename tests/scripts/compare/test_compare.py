"""Comparisons: what their numbers are by hand, what is run and what is not, and one of real runs."""

import csv
import json
import math
import signal
import sys
from pathlib import Path

import pytest

from pipeline.dataset.manifest import Manifest
from scripts.compare import __main__ as compare
from scripts.compare.plot import draw
from scripts.compare.results import Result, Results, Spread, at, crossing, to_reach
from scripts.compare.study import Study, Trial, read_study, scientific
from scripts.compare.tables import tables
from scripts.train.config import Config
from scripts.train.options import read, to_toml

BASE = """
[data]
workers = 0
[model]
n_layer = 1
n_head = 1
n_embd = 16
[train]
steps = 4
learning_rate = 1e-3
min_learning_rate = 1e-4
warmup_steps = 1
eval_every = 2
eval_samples = 8
[selection]
candidates = 4
picks = 2
validation = 2
"""
TABLES = """
[compare]
learning_rates = [1e-3, 2e-3]
[arms.regular]
selection.method = "regular"
[arms.top]
selection.method = "topk"
selection.rank = 2
"""


class Runs:
    """Stands in for scripts.train: `losses` gives (val, test) of the last step by (arm, learning rate, seed), `ends`
    how a run ends instead of being finished. A step takes `pace` seconds; both losses are 8 at first and fall
    linearly."""

    def __init__(self, losses, pace=None, ends=None):
        self.losses, self.pace, self.ends = losses, pace or {}, ends or {}
        self.calls = []

    def __call__(self, command: list[str], log: Path) -> int:
        config = read(Path(command[command.index("--config") + 1]))
        arm, folder = Path(config.out).parts[-2:]
        self.calls.append((f"{arm}/{folder}", "--train.resume" in command))
        key = arm, config.train.learning_rate, config.train.seed
        run = {"manifest_sha256": Manifest.load(config.data.dataset()).sha256, "world_size": 1, "code_version": "c"}
        Path(config.out).mkdir(exist_ok=True)
        Path(config.out, "config.toml").write_text(to_toml(config, run))
        end = self.ends.pop(key, None)
        lines = [] if end else self.evaluations(key, config.train.steps)
        if end == "diverged":
            lines = [{"step": 0, "val_loss": 8.0, "test_loss": 8.0, "seconds": 0.0}]
            lines += [{"step": step, "skipped": True} for step in range(10)]
        Path(config.out, "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        if end == "interrupted":
            raise KeyboardInterrupt
        log.write_text("some output\nerror: the disk is full\n" if end else "fine\n")
        return 2 if end else 0

    def evaluations(self, key, steps):
        val, test = self.losses[key]
        pace = self.pace.get(key[0], 1.0)
        for step in range(0, steps + 1, 2):
            done = step / steps
            yield {"step": step, "val_loss": 8 + (val - 8) * done, "test_loss": 8 + (test - 8) * done,
                   "seconds": step * pace}  # fmt: skip


# The best val loss and the best test loss are at different learning rates.
LOSSES = {
    ("regular", 1e-3, 0): (5.0, 6.0),
    ("regular", 2e-3, 0): (5.5, 4.0),
    ("regular", 1e-3, 1): (5.0, 6.4),
    ("top", 1e-3, 0): (5.0, 3.0),
    ("top", 2e-3, 0): (4.5, 4.0),
    ("top", 2e-3, 1): (4.6, 5.0),
}
ALL = [
    "regular/lr-1e-03-seed-0",
    "top/lr-1e-03-seed-0",
    "regular/lr-2e-03-seed-0",
    "top/lr-2e-03-seed-0",
    "regular/lr-1e-03-seed-1",
    "top/lr-2e-03-seed-1",
]


@pytest.fixture
def study_file(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(BASE + TABLES)
    return path


@pytest.fixture
def do(study_file, dataset, tmp_path, monkeypatch):
    """Runs the command line over runs that are made up; its exit code."""

    def do(runs: Runs, *options: str, pictures: bool = False) -> int:
        monkeypatch.setattr(compare, "launch", runs)
        monkeypatch.setattr(compare, "draw", draw if pictures else lambda *_: None)  # half a second each
        paths = ["--config", str(study_file), "--data.path", str(dataset), "--out", str(tmp_path / "out")]
        return compare.main([*paths, "--seeds", "0", "1", *options])

    return do


@pytest.mark.parametrize(
    ("points", "level", "x"),
    [
        ([(0, 8), (10, 6), (20, 5)], 7, 5),
        ([(0, 8), (10, 6), (20, 5)], 5.25, 17.5),
        ([(0, 8), (10, 6), (20, 5)], 5, 20),
        ([(0, 8), (10, 6), (20, 5)], 4.9, math.inf),
        ([(0, 8), (10, 6), (20, 7), (30, 5)], 6.5, 7.5),  # the first crossing, not the last
        ([(0, 8), (10, 8), (20, 7)], 9, 0),
        ([(0, 8), (10, math.nan), (20, 6)], 7, 20),  # nothing is known between
    ],
)
def test_crossing(points, level, x):
    assert crossing(points, level) == pytest.approx(x)


@pytest.mark.parametrize(("x", "y", "spans"), [(0, 8, True), (2.5, 7.5, True), (20, 5, True), (20.5, 5, False)])
def test_loss_at_a_time(x, y, spans):
    assert at([(0, 8), (10, 6), (20, 5)], x) == (y, spans)


def _result(learning_rate, seed, losses, seconds, arm="a", diverged=False):
    lines = [
        {"step": 10 * i, "val_loss": y, "test_loss": y, "seconds": s}
        for i, (y, s) in enumerate(zip(losses, seconds, strict=True))
    ]
    return Result(Trial(arm, learning_rate, seed, Config()), lines, diverged)


def test_medians_and_bands_count_what_was_not_reached_as_the_worst():
    runs = [_result(1, 0, (8, 6), (0, 30)), _result(1, 1, (8, 4), (0, 20)), _result(1, 2, (8, 7.5), (0, 10))]
    steps, seconds = to_reach(runs, 7, "step"), to_reach(runs, 7, "seconds")
    assert (steps.low, steps.median, steps.high) == (2.5, 5, math.inf)
    assert seconds.values == (15, 5, math.inf)
    assert (seconds / 20).values == (0.75, 0.25, math.inf)
    assert to_reach([_result(1, 0, (8, 6), (0, 30), diverged=True)], 7, "step").median == math.inf
    assert Spread((1.0, 4.0)).median == 2.5


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
        "arm": "regular", "learning_rate": "0.001", "seed": "0", "tuned": "True", "step": "4", "seconds": "4.0",
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


def test_runs_with_other_settings_or_data_are_refused(do, study_file, tmp_path, capsys):
    assert do(Runs(LOSSES)) == 0
    none = Runs(LOSSES)
    for old, new, sentence in [
        ("steps = 4", "steps = 6", "train.steps was 4, is 6"),
        ("eval_samples = 8", "eval_samples = 9", "train.eval_samples was 8, is 9"),
        ("n_embd = 16", "n_embd = 32", "model.n_embd was 16, is 32"),
    ]:
        study_file.write_text((BASE + TABLES).replace(old, new))
        assert do(none) == 2
        told = capsys.readouterr().err
        assert "regular/lr-1e-03-seed-0 is a run with other settings" in told
        assert sentence in told
    study_file.write_text((BASE + TABLES).replace("workers = 0", "workers = 1"))
    assert do(none) == 0
    assert do(none, "--ranks", "2") == 2
    assert "world_size was 1, is 2" in capsys.readouterr().err
    saved = tmp_path / "out" / "top" / "lr-2e-03-seed-1" / "config.toml"
    text = saved.read_text()
    begin = text.index("manifest_sha256") + len('manifest_sha256 = "')
    saved.write_text(text[:begin] + "0" * 64 + text[begin + 64 :])
    assert do(none) == 2
    assert f"manifest_sha256 was {'0' * 64}" in capsys.readouterr().err
    assert none.calls == []


@pytest.mark.parametrize(
    ("text", "options", "sentence"),
    [
        (TABLES, ["--arms", "best"], "unknown arm best: STUDY has regular, top"),
        (TABLES, ["--arms", "top", "top"], "--arms names one of them twice: top top"),
        (TABLES, ["--ranks", "3"], "regular: train.groups (2) must be a multiple of --ranks 3"),
        (TABLES, ["--ranks", "0"], "--ranks must be at least 1, not 0"),
        (TABLES + "selection.rang = 3", [], "unknown key selection.rang in [arms.top] of STUDY: known are selection.m"),
        (TABLES.replace("rank = 2", "rank = '2'"), [], "selection.rank in [arms.top] of STUDY must be a int, not '2'"),
        (TABLES.replace("topk", "best"), [], "selection.method in [arms.top] of STUDY must be one of regular"),
        (TABLES + "train.seed = 3", [], "[arms.top] of STUDY sets train.seed, which the comparison gives to every run"),
        (TABLES + "out = 'here'", [], "[arms.top] of STUDY sets out, which"),
        (TABLES + "selection.picks = 5", [], "selection.picks (5) cannot exceed selection.candidates (4)"),
        (TABLES + "[arms.'a/b']", [], "arms.a/b in STUDY: an arm's name is at most 24 letters"),
        (TABLES + "[unknown]", [], "unknown key unknown in STUDY"),
        ("[arms.regular]", [], "[compare] in STUDY needs learning_rates"),
        ("[compare]\nlearning_rates = [1e-3]", [], "STUDY has no arms"),
        (TABLES.replace("2e-3", "-2e-3"), [], "compare.learning_rates in STUDY must be numbers above 0, not -0.002"),
        (TABLES.replace("2e-3", "1e-3"), [], "compare.learning_rates in STUDY names one of them twice"),
    ],
)
def test_a_wrong_study_gets_one_sentence_before_anything_runs(do, study_file, capsys, text, options, sentence):
    study_file.write_text(BASE + text)
    runs = Runs(LOSSES)
    assert do(runs, *options) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert sentence.replace("STUDY", str(study_file)) in told
    assert told.count("\n") == 1
    assert runs.calls == []


def test_the_lowest_learning_rate_keeps_its_ratio(study_file, tmp_path):
    study = read_study(study_file, tmp_path)
    train = study.trial("top", 6e-3, 5).config.train
    assert (train.learning_rate, train.min_learning_rate, train.seed) == (6e-3, 6e-4, 5)
    assert study.trial("top", 6e-3, 5).config.selection.rank == 2
    assert [scientific(rate) for rate in (6e-4, 1.5e-3, 1.0)] == ["6e-04", "1.5e-03", "1e+00"]


def test_a_study_file_is_a_run_configuration_too(study_file, tmp_path):
    plain = tmp_path / "plain.toml"
    plain.write_text(BASE)
    assert read(study_file) == read(plain)
    assert read(plain).selection.candidates == 4


def test_runs_shorter_than_the_reference_are_marked(tmp_path):
    arms = {"slow": Config(), "fast": Config()}
    study = Study(tmp_path, arms, (1.0,), (0,), tmp_path)
    results = Results(study, [_result(1.0, 0, (8, 6), (0, 30), "slow"), _result(1.0, 0, (8, 7), (0, 20), "fast")])
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in tables(results).splitlines()]
    assert ["fast", "7.000 *", "+1.000"] in cells
    assert ["fast", "not reached (0 of 1 runs)", "–", "–"] in cells
    assert ["slow", "10", "30.0", "1.00"] in cells
    assert ["- fast: not tuned, there is one learning rate."] in cells


def test_a_picture_of_no_runs_and_of_many_arms(tmp_path):
    study = Study(tmp_path, {f"arm-{i}": Config() for i in range(14)}, (1.0,), (0,), tmp_path)
    draw(Results(study), tmp_path / "none.png")
    runs = [_result(1.0, 0, (8, 6, 5 + i / 10), (0, 30, 60), f"arm-{i}") for i in range(14)]
    draw(Results(study, runs), tmp_path / "many.png")
    assert (tmp_path / "many.png").stat().st_size > (tmp_path / "none.png").stat().st_size > 1000


INTERRUPTED = """
import os, signal, time
def told(*_):
    print("told", flush=True)
    raise SystemExit(0)
signal.signal(signal.SIGINT, told)
os.kill(os.getppid(), signal.SIGINT)
time.sleep(60)
"""


def test_an_interrupt_reaches_the_run_which_is_waited_for(tmp_path):
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
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
    study = read_study(study_file, tmp_path / "out", data_path=str(dataset))
    for arm, folder in zip(study.arms, folders, strict=True):
        assert study.trial(arm, 1e-3, 0).config == read(folder / "config.toml")
    with open(tmp_path / "out" / "results.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["arm"], row["seed"], row["step"]) for row in rows] == [
        ("regular", seed, step) for seed in "01" for step in "024"
    ]
    lines = [json.loads(line) for line in (folders[0] / "metrics.jsonl").read_text().splitlines()]
    final = next(line for line in reversed(lines) if "val_loss" in line)
    assert (float(rows[2]["val_loss"]), float(rows[2]["seconds"])) == (final["val_loss"], final["seconds"])
    assert "| regular |" in capsys.readouterr().out
