"""The step benchmark measures what it says: its modes agree with each other, and its figures with a slow count."""

import json

import pytest
import torch

from scripts.bench import step as bench_step
from scripts.bench.__main__ import main
from scripts.bench.fidelity import overlap, spearman
from scripts.bench.step import Bench, Options
from tests.helpers.runs import run

TINY = Options(n_layer=1, n_embd=16, n_head=2, length=16, vocab_size=50, picks=4, rounds=2, threads=1)


def test_modes_that_do_the_same_by_other_means_leave_the_same_gradient():
    bench = Bench(TINY)
    gradients = {}
    for mode in bench.modes():
        mode.step()
        gradients[mode.name.strip()] = torch.cat([p.grad.flatten() for p in bench.model.parameters()])
        bench.clear()

    def same(one: str, other: str) -> bool:
        return torch.allclose(gradients[one], gradients[other], rtol=1e-3, atol=1e-6)

    assert same("first order exact, m = k", "two passes, m = k")
    assert same("first order exact, m = k", "direct, sample by sample")
    assert same("first order exact, m = k", "torch.func, vmap of grad")
    assert same("GradNorm, ghost", "GradNorm, direct")
    assert not same("first order exact, m = k", "GradNorm, ghost")
    assert not same("first order exact, m = k", "plain, k")


def test_floors_are_those_of_the_cost_model():
    """DESIGN section 9, at N = 2k: 4.7x, 3.3x, 2.7x; m = k/4 makes 1.92x."""
    bench = Bench(TINY)
    floors = {mode.name.strip(): mode.floor / (3 * bench.k) for mode in bench.modes()}
    assert floors["plain, N"] == 2
    assert floors["two passes, m = k"] == pytest.approx(14 / 3)
    assert floors["first order exact, m = k"] == pytest.approx(10 / 3)
    assert floors["rank 8, m = k"] == pytest.approx(8 / 3)
    assert floors["rank 8 running, m = k/4"] == pytest.approx(5.75 / 3)
    assert floors["S = 8, rank 8 running, m = k/4"] == pytest.approx((7 * 3 + 5.75) / (8 * 3))
    assert floors["S = 8, rank 8, m = k/2"] == pytest.approx((7 * 3 + 6.5) / (8 * 3))


def test_amortised_modes_score_one_step_in_eight(monkeypatch):
    """Of 64 drawn for 8 picks: passes over the target samples, the shortlist, and seven times the picks."""
    bench, passes = Bench(TINY), []
    forward = bench.model.forward
    monkeypatch.setattr(bench.model, "forward", lambda *batch: passes.append(len(batch[0])) or forward(*batch))
    mode = next(mode for mode in bench.modes() if mode.name == "S = 8, rank 8, m = k/2")
    mode.step()
    assert (mode.steps, mode.candidates) == (8, 32)
    assert passes == [2, 8, *[4] * 7]


def test_peak_memory_is_counted():
    def step():
        one = torch.zeros(1000, 250)  # 1 MB
        two = one + 1
        del one, two
        torch.zeros(1000, 250)

    assert bench_step._peak_bytes(step) == pytest.approx(2e6, rel=0.01)


def test_spearman_and_overlap():
    scores_N = torch.tensor([0.1, 5.0, -3.0, 2.0])
    assert spearman(scores_N, scores_N**3) == pytest.approx(1.0)
    assert spearman(scores_N, -scores_N) == pytest.approx(-1.0)
    assert spearman(scores_N, torch.tensor([5.0, 0.1, -3.0, 2.0])) == pytest.approx(0.2)
    assert overlap(scores_N, torch.tensor([5.0, 0.1, -3.0, 2.0]), 2) == 0.5


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
    assert "no config file" in capsys.readouterr().err
    assert main(["loud"]) == 2
