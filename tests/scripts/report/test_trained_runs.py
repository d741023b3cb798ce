"""What the training loop writes is what the report reads."""

import json

import numpy as np
import pytest

from scripts.train.__main__ import main as train
from tests.helpers.run_example import ask, ask_json


def test_trained_runs_are_reported(dataset, tmp_path, capsys):
    options = "--model.n-layer 1 --model.n-head 2 --model.n-embd 16 --train.steps 4 --train.warmup-steps 1"
    options += " --train.eval-every 2 --train.eval-samples 8 --data.workers 0 --selection.candidates 6"
    options += f" --selection.picks 2 --data.path {dataset}"
    for method, more in (
        ("greats", " --selection.direction.samples 4"),
        ("maxloss", ""),
        ("importance", ""),
        ("match", ""),
        ("need", ""),
        ("auto", ""),
    ):
        folder = tmp_path / method
        command = f"{options}{more} --selection.method {method} --out {folder}"
        assert train(command.split()) == 0
        (numbers,) = ask_json(capsys, folder)["numbers"]
        assert (numbers["method"], numbers["steps"], numbers["picks"]) == (method, 4, 4 * 2 * 2)
        if method not in (
            "importance",
            "match",
            "need",
            "auto",
        ):  # which score nothing while their filters are not trusted
            assert numbers["scored"] == 4 * 2 * 6
        assert numbers["ended"] == "finished after 4 steps"
        assert numbers["final_val_loss"] < numbers["first_val_loss"]
        rows = ask_json(capsys, folder, "--ask", "sources")["sources"]
        assert {row["source"] for row in rows} == {"words", "noise"}
        assert sum(row["picked"] for row in rows) == pytest.approx(16)
        known = [row["contribution"] for row in rows if row["picked"]]
        assert (None in known) == (method != "greats")


def test_a_trained_run_behind_a_prefilter_is_reported(dataset, tmp_path, capsys):
    """What the log says of the predictions is what the judge of the run heard."""
    options = "--model.n-layer 1 --model.n-head 2 --model.n-embd 16 --train.steps 7 --train.warmup-steps 1"
    options += " --train.eval-samples 8 --data.workers 0 --selection.candidates 6 --selection.picks 2"
    options += f" --data.path {dataset}"
    amortised = " --selection.direction.samples 4 --selection.amortise.drawn 8 --selection.amortise.every 3"
    assert train(f"{options}{amortised} --out {tmp_path / 'run'}".split()) == 0
    answers = ask_json(capsys, tmp_path / "run", "--ask", "predictor")
    found = [row["correlation"] for row in answers["predictions"] if row["scored_steps"]]
    heard = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    heard = {line["step"]: line["prefilter_correlation"] for line in heard if "train_loss" in line}
    # Steps 0, 3 and 6 are scored; after step 6 no later one tells.
    assert found[0] == pytest.approx(heard[1], rel=1e-4)
    assert np.mean(found[:2]) == pytest.approx(heard[4], rel=1e-4)
    (numbers,) = ask_json(capsys, tmp_path / "run")["numbers"]
    groups = numbers["groups"]
    assert (numbers["candidates"], numbers["scored"], numbers["picks"]) == (56 * groups, 18 * groups, 14 * groups)
    assert answers["ngrams"]

    by_need = f"{amortised} --selection.method topk --selection.amortise.by need --selection.filter.when always"
    assert train(f"{options}{by_need} --selection.need.every 2 --out {tmp_path / 'by-need'}".split()) == 0
    answers = ask_json(capsys, tmp_path / "by-need", "--ask", "predictor")
    fates = [(row["steps"], row["outcome"], row["candidates"]) for row in answers["outcomes"]]
    of_scored = [("scored", fate, 3 * groups * n) for fate, n in (("picked", 2), ("rejected", 4), ("dropped", 2))]
    assert fates == [*of_scored, ("between", "picked", 8 * groups), ("between", "dropped", 24 * groups)]
    assert [row["mean_score"] for row in answers["outcomes"] if row["steps"] == "between"] == [None, None]
    assert sum(row["scored_steps"] for row in answers["predictions"]) == 3
    heard = [json.loads(line) for line in (tmp_path / "by-need" / "metrics.jsonl").read_text().splitlines()]
    first = next(line["share"] for line in heard if "share" in line)
    assert answers["shares"][0]["share_1"] == pytest.approx(first[0])
    assert "ngrams" not in answers
    _, out, _ = ask(capsys, tmp_path / "by-need", "--ask", "predictor")
    assert "57.1 % of the picks were made without scores." in " ".join(out.split())

    assert train(f"{options} --selection.method importance --out {tmp_path / 'importance'}".split()) == 0
    _, out, err = ask(capsys, tmp_path / "importance", "--ask", "predictor")
    assert err == ""
    assert "Method importance ranks by the predictions themselves" in " ".join(out.split())
