"""The step benchmark measures what it says: modes do what they are called, figures agree with a slow count."""

import json
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch

from scripts.bench.__main__ import main
from scripts.bench.steps import step as bench_step
from scripts.bench.steps.modes import DRAWN, Bench, Mode, batch
from scripts.bench.steps.step import StepOptions, build_bench, every_mode
from selection.prefilters.importance import ImportanceWeights
from selection.prefilters.ngrams import ngram_features
from selection.settings import AmortiseSettings, DirectionSettings, Selection
from tests.helpers.runs import run

# No matrix has a rank above D = 8, so a direction of rank 8 is exact.
TINY = StepOptions(n_layer=1, n_embd=8, n_head=2, length=16, vocab_size=50, picks=4, rounds=2, threads=1)


def left_by(bench: Bench, mode: Mode) -> torch.Tensor:
    """The gradient that is there after a mode's step."""
    mode.step()
    return taken(bench)


def taken(bench: Bench) -> torch.Tensor:
    gradient = torch.cat([p.grad.flatten() for p in bench.model.parameters()])
    bench.clear()
    return gradient


def of_picks(bench: Bench, scores_n: torch.Tensor) -> torch.Tensor:
    """The gradient of the mean loss of the k candidates with the highest scores."""
    bench.model(*batch(bench.pool_nT1[scores_n.topk(bench.k).indices])).mean().backward()
    return taken(bench)


def per_sample(bench: Bench, samples: int, length: int, counts=lambda name: True) -> torch.Tensor:
    """Gradients [samples, parameters that count] of candidates, of their first tokens, one by one."""
    gradients = []
    for tokens_T1 in bench.pool_nT1[:samples, : length + 1]:
        bench.model(*batch(tokens_T1[None])).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for name, p in bench.model.named_parameters() if counts(name)]))
        bench.clear()
    return torch.stack(gradients)


def by_target(bench: Bench, m: int, samples: int, length: int = 16, counts=lambda name: True) -> torch.Tensor:
    """The gradient of the picks by <g_i, v>, all of it by hand."""
    bench.model(*batch(bench.target_nT1[:m])).mean().backward()
    v = torch.cat([p.grad.flatten() for name, p in bench.model.named_parameters() if counts(name)])
    bench.clear()
    return of_picks(bench, per_sample(bench, samples, length, counts) @ v)


def in_block(name: str) -> bool:
    return name.startswith("blocks.")


def test_modes_leave_the_gradient_of_the_picks_they_stand_for():
    # Many candidates, and weights far from their small beginnings: else other modes would pick the same ones.
    bench = build_bench(replace(TINY, picks=16))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in bench.model.parameters():
            parameter.normal_(std=0.5)
    k, N = bench.k, bench.N
    left = {mode.name.strip(): left_by(bench, mode) for mode in every_mode(bench)}
    with torch.no_grad():
        losses_N = bench.model(*batch(bench.pool_nT1[:N]))
    features_nF, target_nF = (ngram_features(tokens.numpy()) for tokens in (bench.pool_nT1, bench.target_nT1))
    predicted_n = torch.from_numpy(ImportanceWeights(target_nF, features_nF, features_nF).predict(features_nF))
    exact, norms = by_target(bench, k, N), of_picks(bench, per_sample(bench, N, 16).norm(dim=1))
    expected = {
        "plain, k": of_picks(bench, -torch.arange(N)),
        "greats exact, m = k": exact,  # at a curvature of 1 and so small a step the interactions turn nothing
        "first order exact, m = k": exact,
        "rank 8, m = k": exact,
        "rank 8 running, m = k/4": by_target(bench, 4, N),  # the target samples are always the same
        "the same, N = 1.5k": by_target(bench, 4, 24),
        "the same, blocks only": by_target(bench, 4, N, counts=in_block),
        "the same, both": by_target(bench, 4, 24, counts=in_block),
        "the same, prefix T/4": by_target(bench, 4, N, length=4),
        "prefix T/8, m = k/8": by_target(bench, 2, N, length=2),
        "GradNorm, ghost": norms,
        "momentum": of_picks(bench, -torch.arange(N)),  # no step was made: there is no moment, and all scores are 0
        "maxloss": of_picks(bench, losses_N),
        "rho_loss": of_picks(bench, losses_N - torch.from_numpy(bench.known_1n[0, :N])),
        "sbert, k of 8k": of_picks(bench, torch.from_numpy(bench.known_1n[0])),
        "importance, k of 8k": of_picks(bench, predicted_n),
        "two passes, m = k": exact,
        "direct, sample by sample": exact,
        "torch.func, vmap of grad": exact,
        "GradNorm, direct": norms,
    }
    bench.model(*batch(bench.pool_nT1[:N])).mean().backward()
    expected["plain, N"] = taken(bench)
    for name, gradient in expected.items():
        assert torch.allclose(left[name], gradient, rtol=1e-3, atol=1e-6), name
    # Draws at random, takes turns by shares, goes by what was picked before: tests of their own.
    others = {"opus, m = k", "need, k of 8k", "match, k of 8k"}
    assert {name for name in left if name not in expected} == others | {n for n in left if n.startswith("S = 8")}
    # What they stand for differs, or else the comparisons would prove nothing.
    distinct = {tuple(gradient.tolist()): gradient for gradient in expected.values()}
    assert len(distinct) == len(expected) - 7  # of those, six are `exact`, two `norms`, two the first k
    for one, other in combinations(distinct.values(), 2):
        assert not torch.allclose(one, other, rtol=1e-3, atol=1e-6)


def test_floors_are_those_of_the_cost_model():
    """At N = 2k: 4.7x, 3.3x, 2.7x of plain training on k; m = k/4 makes 1.92x."""
    bench = build_bench(TINY)
    floors = {mode.name.strip(): mode.floor / (3 * bench.k) for mode in every_mode(bench)}
    assert floors["plain, N"] == 2
    assert floors["two passes, m = k"] == pytest.approx(14 / 3)
    assert floors["greats exact, m = k"] == pytest.approx(10 / 3)
    assert floors["first order exact, m = k"] == pytest.approx(10 / 3)
    assert floors["rank 8, m = k"] == pytest.approx(8 / 3)
    assert floors["rank 8 running, m = k/4"] == pytest.approx(5.75 / 3)
    assert floors["the same, N = 1.5k"] == pytest.approx(4.75 / 3)
    assert floors["the same, prefix T/4"] == pytest.approx((0.75 + 1 + 3) / 3)
    assert floors["GradNorm, ghost"] == pytest.approx(7 / 3)
    assert floors["maxloss"] == pytest.approx(5 / 3)
    assert floors["rho_loss"] == pytest.approx(5 / 3)
    assert floors["opus, m = k"] == pytest.approx(10 / 3)
    assert floors["momentum"] == pytest.approx(7 / 3)
    assert floors["importance, k of 8k"] == floors["sbert, k of 8k"] == 1
    assert floors["need, k of 8k"] == pytest.approx(1 + 24 / 16 / 12)
    assert floors["S = 8, rank 8 running, m = k/4"] == pytest.approx((7 * 3 + 5.75) / (8 * 3))
    assert floors["S = 8 by need, m = k/4"] == pytest.approx((7 * 3 + 5.75) / (8 * 3) + 24 / 16 / 12)
    assert floors["S = 8, rank 8, m = k/2"] == pytest.approx((7 * 3 + 6.5) / (8 * 3))


def test_amortised_modes_score_one_step_in_eight_and_go_by_the_prefilter(monkeypatch):
    """Of 32 drawn for 4 picks: passes over the target samples, the shortlist, and seven times the picks."""
    bench, passes = build_bench(TINY), []
    forward = bench.model.forward
    monkeypatch.setattr(bench.model, "forward", lambda *given: passes.append(given[0]) or forward(*given))
    mode = next(mode for mode in every_mode(bench) if mode.name == "S = 8, rank 8, m = k/2")
    mode.step()
    assert (mode.steps, mode.candidates) == (8, DRAWN * bench.k) == (8, 32)
    assert [len(inputs) for inputs in passes] == [2, 8, *[4] * 7]
    features_nF, target_nF = (ngram_features(tokens.numpy()) for tokens in (bench.pool_nT1, bench.target_nT1))
    settings = Selection("topk", 4, 8, DirectionSettings(2, 8), amortise=AmortiseSettings(drawn=32, every=8))
    ranking = bench.selector(settings).prefilter.rank(features_nF[None])
    assert ranking.trusted
    best = np.argsort(-ranking.predicted_gn[0], kind="stable")[:4]
    # What step 0 scored is learnt while step 1 is computed: step 1 is picked by what was known at the start.
    assert torch.equal(passes[2], bench.pool_nT1[best, :-1])


@pytest.mark.parametrize(
    ("name", "expected"),
    [("need, k of 8k", [24, *[4] * 16]), ("S = 8 by need, m = k/4", [24, *[1, 8, *[4] * 7] * 2])],
)
def test_need_watches_losses_in_one_step_of_sixteen(monkeypatch, name, expected):
    bench, passes = build_bench(TINY), []
    forward = bench.model.forward
    monkeypatch.setattr(bench.model, "forward", lambda *given: passes.append(len(given[0])) or forward(*given))
    mode = next(mode for mode in every_mode(bench) if mode.name == name)
    mode.step()
    assert mode.steps == 16
    assert passes == expected


def test_peak_memory_is_counted():
    def step():
        one = torch.zeros(1000, 250)  # 1 MB
        two = one + 1
        del one, two
        torch.zeros(1000, 250)

    assert bench_step.peak_bytes(step) == pytest.approx(2e6, rel=0.01)


def test_the_table_fits_a_terminal_of_100_columns(capsys):
    shape = "--n-layer 1 --n-embd 16 --n-head 2 --length 16 --vocab-size 50 --picks 4 --rounds 2 --threads 1".split()
    assert main(["step", *shape]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines) <= 100
    assert not any("…" in line for line in lines)
    bench = build_bench(TINY)
    for mode in every_mode(bench):
        assert any(mode.name in line for line in lines), mode.name


def test_the_command_prints_costs_and_fidelity(dataset, tmp_path, capsys):
    folder = run(dataset, tmp_path / "run", train__groups=2, selection__picks=4, selection__candidates=8)
    shape = "--n-layer 1 --n-embd 16 --n-head 2 --length 16 --vocab-size 50 --picks 4 --rounds 2 --threads 1".split()
    capsys.readouterr()
    assert main(["step", *shape, "--run", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["mode"] for row in found["cost"]][:2] == ["plain, k", "plain, N"]
    assert found["cost"][0]["of_plain_k"] == 1
    assert list(found["fidelity"]) == ["4", "6"]
    exact = found["fidelity"]["6"]["exact, m = k"]
    assert exact["spearman_same_direction"] == pytest.approx(1.0)
    assert exact["overlap_same_direction"] == 1.0
    assert exact["spearman_of_64_samples"] < 1.0
    assert main(["step", *shape, "--run", str(tmp_path)]) == 2
    assert "no run folder" in capsys.readouterr().err
    assert main(["loud"]) == 2


def test_one_round_has_no_spread_and_is_refused_at_once(capsys):
    assert main(["step", "--rounds", "1"]) == 2
    assert capsys.readouterr().err == "error: --rounds is 1; a spread needs at least 2\n"


def test_modes_of_adapters_leave_the_gradient_of_the_picks_and_train_nothing_else():
    pytest.importorskip("peft", reason="the peers extra is not installed")
    bench = build_bench(replace(TINY, lora=2, n_embd=16))
    with torch.no_grad():
        for parameter in bench.model.parameters():
            parameter.normal_(std=0.5)
    trained = [(name, p) for name, p in bench.model.named_parameters() if p.requires_grad]
    assert all(".lora_" in name for name, _ in trained)

    def of(*picked: torch.Tensor) -> torch.Tensor:
        bench.model(*batch(*picked)).mean().backward()
        gradient = torch.cat([p.grad.flatten() for _, p in trained])
        bench.clear()
        return gradient

    per_sample = torch.stack([of(tokens_T1[None]) for tokens_T1 in bench.pool_nT1[: bench.N]])
    best = {m: (per_sample @ of(bench.target_nT1[:m])).topk(bench.k).indices for m in (4, 1)}
    expected = {"plain, k": torch.arange(4), "plain, N": torch.arange(8), "greats exact, m = k": best[4]}
    expected |= {"first order exact, m = k": best[4], "running, m = k/4": best[1], "running, m = k/8": best[1]}
    floors = {}
    for mode in every_mode(bench):
        floors[mode.name] = mode.floor / bench.plain
        mode.step()
        left = torch.cat([p.grad.flatten() for _, p in trained])
        bench.clear()
        assert torch.allclose(left, of(bench.pool_nT1[expected[mode.name]]), rtol=1e-3, atol=1e-6), mode.name
    assert floors == {
        name: pytest.approx(floor) for name, floor in zip(expected, (1, 2, 3, 3, 2.25, 2.25), strict=True)
    }


def test_a_table_of_adapters(capsys):
    shape = "--n-layer 1 --n-embd 16 --n-head 2 --length 16 --vocab-size 50 --picks 4 --rounds 2 --threads 1".split()
    assert main(["step", *shape, "--lora", "2"]) == 0
    assert "adapters of rank 2 trained" in capsys.readouterr().out
    assert main(["step", *shape, "--lora", "-1"]) == 2
    assert "--lora must be at least 0, not -1" in capsys.readouterr().err
