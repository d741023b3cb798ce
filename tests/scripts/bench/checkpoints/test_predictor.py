"""The search for a predictor on scores of a known cause: who can find it does, and the ceiling is where it was put."""

import json

import numpy as np
import pytest
from rich.console import Console

from scripts.bench.__main__ import main
from scripts.bench.checkpoints import variants as predictor_variants
from scripts.bench.checkpoints.ceiling import ceiling
from scripts.bench.checkpoints.predictor import PredictorOptions, Recorded, compare, gain, replay
from scripts.bench.checkpoints.variants import MeanScores, Ridge, Samples, raw, standardised, variants
from selection.prefilters.ngrams import ngram_features
from tests.helpers.runs import run

V, STEPS, DRAWN = 30, 60, 32
OPTIONS = PredictorOptions(run="", every=3, learnt=16, draws=1)


def planted(shuffled: bool = False) -> Recorded:
    """Each candidate's score is how often it has token 7, and as much noise; embeddings are one-hot."""
    random = np.random.default_rng(0)
    tokens = random.integers(0, V, (STEPS * DRAWN + 40, 21))
    scores = (tokens[:, 1:] == 7).sum(1) + 0.8 * random.standard_normal(len(tokens))
    candidates, rest = np.split(np.arange(len(tokens)), [STEPS * DRAWN])
    embedded = np.eye(V)[tokens[candidates, 1:]].mean(1)
    stages = (candidates >= len(candidates) // 2).astype(np.int64)
    samples = Samples(ngram_features(tokens), rest[:20], rest[20:], np.stack([embedded, embedded]), stages)
    scores = scores[: len(candidates)]
    shape = (STEPS, 1, DRAWN)
    return Recorded(
        samples, candidates.reshape(shape), (random.permuted(scores) if shuffled else scores).reshape(shape)
    )


def test_whoever_learns_finds_a_planted_effect_and_nobody_finds_what_is_not_there():
    rows = compare(planted(), OPTIONS, 4, Console(quiet=True))
    found = {(row["knows"], row["variant"]): row for row in rows}
    assert len(found) == len(rows) > 20
    for name, row in found.items():
        # Who knew the token's worth would reach 0.71, the root of its share of the scores' variance.
        assert (row["correlation"][2] > 0.3) == ("static" not in name[1]), name
        assert ("static" in name[1]) or row["gain"][2] > row["correlation"][2], name
    assert found["scores alone", "shipped"]["ahead"] == 0
    static = found["16 target samples", "n-gram importance, static"]
    assert static["ahead"] < -4 * static["ahead_error"] < 0
    nothing = planted(shuffled=True)
    alone = variants(nothing.samples)["scores alone"]
    for name in ("shipped", "ridge, penalty 1", "network, Adam at 0.01", "embeddings, penalty 100"):
        assert abs(replay(alone[name](), nothing, OPTIONS, 0, 4)[0].mean()) < 0.06, name


def test_the_rule_with_nothing_changed_is_the_shipped_one():
    recorded = planted()
    shipped = variants(recorded.samples)["scores alone"]["shipped"]()
    same = MeanScores(recorded.samples)
    of_both = [replay(variant, recorded, OPTIONS, 0, 4) for variant in (shipped, same)]
    assert of_both[0] == pytest.approx(of_both[1], abs=1e-5)
    assert replay(MeanScores(recorded.samples, of=raw), recorded, OPTIONS, 0, 4) != pytest.approx(of_both[1], abs=1e-3)
    assert not replay(variants(recorded.samples)["scores alone"]["shipped"](), recorded, OPTIONS, 0, 4)[:, 0].any()


def test_ridge_is_the_exact_solution_on_what_is_in_the_window(monkeypatch):
    monkeypatch.setattr(predictor_variants, "WINDOW", 2)
    samples, penalty = planted().samples, 0.7
    prior = samples.target[:2], samples.pool[:2]
    ours, random = Ridge(samples, penalty, prior), np.random.default_rng(1)
    groups = [(np.arange(8) + 8 * number, random.standard_normal(8)) for number in range(4)]
    for rows_N, scores_N in groups:
        ours.learn(rows_N[None], scores_N[None])
    kept = groups[-2:]
    rows = np.concatenate([*prior, *(rows_N for rows_N, _ in kept)])
    values = np.concatenate([[1, 1, -1, -1], *(standardised(scores_N) for _, scores_N in kept)])
    F = samples.features_RF.shape[1]
    others = np.arange(100, 110)
    used, buckets = np.unique(samples.buckets_RF[np.concatenate([rows, others])], return_inverse=True)
    counts = np.stack([np.bincount(row, minlength=len(used)) for row in buckets]) / F**0.5
    inputs = counts[: len(rows)]
    weights = np.linalg.solve(inputs.T @ inputs + penalty * np.eye(len(used)), inputs.T @ values)
    assert ours.predict(others) == pytest.approx(counts[len(rows) :] @ weights, abs=1e-8)


def test_gain_is_the_mean_standardised_score_of_the_best_predicted():
    scores = np.array([0.0, 2.0, 4.0, 6.0])
    assert gain(np.array([1.0, 0.0, 9.0, 8.0]), scores, 2) == pytest.approx((1 + 3) / 5**0.5 / 2)
    assert gain(np.ones(4), scores, 2) == 0


def test_the_ceiling_is_that_of_the_planted_noise():
    """Products are a true score of variance 1 and noise of variance 36 a target sample: r = 1 / (1 + 36 / m)."""
    random = np.random.default_rng(0)
    true_gN = random.standard_normal((8, 400))
    products_gNP = true_gN[..., None] + 6 * random.standard_normal((8, 400, 64))
    predicted_dgN = np.stack([true_gN, true_gN + random.standard_normal(true_gN.shape)])
    for m in (8, 32):
        found = ceiling(products_gNP, predicted_dgN[:1], m)
        assert found["r"] == pytest.approx(1 / (1 + 36 / m), abs=0.03)
        assert found["predictor"] == pytest.approx(found["ceiling"], abs=0.03)  # who knows the truth reaches it
        half = ceiling(products_gNP, predicted_dgN[1:], m)["predictor"]
        assert half == pytest.approx(found["ceiling"] / 2**0.5, abs=0.03)
    assert ceiling(-products_gNP[:, :, :1] * [1, -1], predicted_dgN, 1)["ceiling"] is None


def test_the_command_replays_a_run(dataset, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("scripts.bench.checkpoints.ceiling.STEPS", 2)
    monkeypatch.setattr("scripts.bench.checkpoints.ceiling.SPLITS", 3)
    folder = run(dataset, tmp_path / "run", train__groups=2, selection__candidates=8, selection__method="topk")
    capsys.readouterr()
    options = ["predictor", "--run", str(folder), "--every", "2", "--learnt", "4"]
    assert main([*options, "--draws", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["variant"] for row in found["variants"]} >= {"shipped", "unigrams", "ridge, penalty 1"}
    assert [(row["step"], row["of"]) for row in found["ceiling"][::2]] == [
        (step, kind) for step in (4, 6) for kind in ("score", "cosine")
    ]
    assert all(-1 <= row["predictor"] <= 1 for row in found["ceiling"])
    assert main([*options, "--draws", "1"]) == 0
    out = capsys.readouterr().out
    assert "scores alone" in out
    assert "…" not in out
    assert max(len(line) for line in out.splitlines()) <= 100
    unscored = run(dataset, tmp_path / "regular", selection__method="regular")
    assert main(["predictor", "--run", str(unscored)]) == 2
    assert "has not scored every candidate" in capsys.readouterr().err
    assert main(["predictor", "--run", str(folder), "--data", str(tmp_path)]) == 2
