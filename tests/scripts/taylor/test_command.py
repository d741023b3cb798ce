"""python -m scripts.taylor: what it writes and prints, and what it refuses."""

import csv

import numpy as np
import pytest

from scripts.taylor.__main__ import main
from scripts.taylor.correlation import correlation
from tests.helpers.runs import run

SMALL = "--targets 3 --pool 64 --batches 4 --walks 3 --steps 1 2".split()


@pytest.fixture(scope="module")
def stages(dataset, tmp_path_factory):
    return run(dataset, tmp_path_factory.mktemp("taylor") / "run", selection__method="regular", train__dtype="float64")


def test_correlations_and_their_errors():
    random = np.random.default_rng(3)
    one, noise = random.normal(size=(2, 400))
    found = correlation(one, one + noise)
    assert found.pearson == pytest.approx(np.corrcoef(one, one + noise)[0, 1])
    ranks = [values.argsort().argsort() for values in (one, one + noise)]
    assert found.spearman == pytest.approx(np.corrcoef(*ranks)[0, 1])
    # Fisher: the error of r over n pairs is about (1 - r^2) / sqrt(n).
    assert found.pearson_error == pytest.approx((1 - found.pearson**2) / 20, rel=0.2)
    assert found.spearman_error == pytest.approx((1 - found.spearman**2) / 20, rel=0.3)
    assert correlation(one, one**3).spearman == pytest.approx(1)
    assert np.isnan(correlation(np.ones(5), np.arange(5.0)).pearson)


def test_the_command_writes_tables_and_pictures(stages, tmp_path, capsys):
    assert main(["--run", str(stages), "--out", str(tmp_path / "out"), *SMALL, "--sgd-rate", "0.001"]) == 0
    printed = capsys.readouterr().out
    *lines, told = printed.splitlines()
    assert max(map(len, lines)) <= 100
    assert "…" not in printed
    assert told == f"{tmp_path / 'out'}: batches.csv, correlations.csv, scatter.png, curves.png"
    with open(tmp_path / "out" / "correlations.csv") as file:
        lines = list(csv.DictReader(file))
    steps = [line for line in lines if line["experiment"] == "steps" and line["setting"] == "1"]
    assert {line["stage"] for line in steps} == {"4", "6"}
    assert {line["optimizer"] for line in steps} == {"sgd", "adamw"}
    exact = [line for line in steps if line["predictor"] == "exact"]
    assert len(exact) == 4
    for line in exact:  # of steps this small, Taylor's second order says all
        assert float(line["predicted"]) == pytest.approx(float(line["actual"]), rel=0.02)
    assert all(float(line["pearson"]) > 0.999 for line in exact if line["optimizer"] == "sgd")
    with open(tmp_path / "out" / "batches.csv") as file:
        rows = list(csv.DictReader(file))
    assert sum(row["experiment"] == "steps" for row in rows) == 2 * 2 * (4 + 3)
    for name in ("scatter.png", "curves.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--batches", "2"], "--batches is 2; it must be at least 3"),
        (["--pool", "31"], "--pool is 31; it must be at least 64"),
        (["--sgd-rate", "0"], "--sgd-rate is 0.0; it must be above 0"),
        (["--checkpoints", "5"], "has no checkpoint of step 5: it has [4, 6]"),
        (["--targets", "100000"], "100000 samples of split target are asked for"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(stages, tmp_path, capsys, options, sentence):
    assert main(["--run", str(stages), "--out", str(tmp_path / "out"), *options]) == 2
    assert sentence in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_refused(tmp_path, capsys):
    assert main(["--run", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "is no run folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
