"""Steps of ranks that are there, in processes of their own."""

import pytest
from rich.console import Console

from model.gpt2 import GPT2Config
from scripts.bench.__main__ import main
from scripts.bench.scale import predicted
from scripts.bench.scale.counted import count
from scripts.bench.scale.measured import Measured, measure, table
from scripts.bench.scale.predicted import Predicted, link, mean_step, predict
from scripts.bench.scale.rank import arm

SHAPE = GPT2Config(vocab_size=64, n_layer=1, n_head=1, n_embd=8, sequence_length=16)


def test_two_ranks_train_on_twice_the_picks():
    found = measure(2, "amortised", picks=2, rounds=1, shape=SHAPE)
    assert abs(sum(found.phases) - found.seconds) < 1e-9
    assert min(found.phases) > 0
    assert abs(found.tokens_per_second * found.seconds - 2 * 2 * 16) < 1e-6
    assert abs(found.candidates_per_second * found.seconds - 2 * 16) < 1e-6


def test_efficiency_is_of_a_rank():
    phases = (0.1, 0.2, 0.3)
    one, two = (
        Measured(ranks, "exact", phases, 0.6, 0.05, tokens, 1.0, 10**8) for ranks, tokens in ((1, 100.0), (2, 150.0))
    )
    console = Console(width=140, record=True)
    console.print(table([one, two]))
    assert "exact 2 0.600 5 0.100 0.200 0.300 150 1.0 0.75 100" in " ".join(console.export_text().split())


def test_two_ranks_are_projected_from_one(monkeypatch):
    """Half of the target samples of an exact step are the other rank's: fewer products, so less computing."""
    monkeypatch.setattr(predicted, "link", lambda ranks: (0.5, 1e3))
    phases = (1.0, 1.0, 1.0)
    found = [Measured(ranks, "exact", phases, 3.0 * ranks, 0.0, 1.0, 1.0, 1) for ranks in (1, 2)]
    counted = {ranks: mean_step("exact", 4, ranks, SHAPE) for ranks in (1, 2)}
    monkeypatch.setattr(predicted, "mean_step", lambda name, picks, ranks, shape: counted[ranks])
    (one,) = predict(found, 4, SHAPE)
    alone, both = counted.values()
    assert alone.sent.total() == 0 < both.sent.total()
    products = both.operations.total() / alone.operations.total()
    assert 0.7 < products < 0.9
    assert one.computing == pytest.approx(3.0 * products)
    assert one.communication == pytest.approx(0.5 * both.calls.total() + both.sent.total() / 1e3)
    assert one.error == pytest.approx((one.computing + one.communication) / 6.0 - 1)


def test_a_period_is_one_scored_step_and_seven_others():
    scored, between = count(SHAPE, arm("amortised", 2), 2, steps=(8, 9), dtype="float32", as_on_a_gpu=False)
    assert scored.operations["scores"] > 0 == between.operations["scores"]
    mean = mean_step("amortised", 2, 2, SHAPE)
    assert mean.operations["scores"] == scored.operations["scores"] / 8
    assert mean.operations.total() == (scored.operations.total() + 7 * between.operations.total()) / 8


def test_the_link_of_two_ranks_here():
    latency, bandwidth = link(2)
    assert 0 < latency < 1
    assert 1e6 < bandwidth < 1e12


def test_what_is_projected_stands_beside_what_was_measured():
    console = Console(width=140, record=True)
    console.print(predicted.table([Predicted(2, "exact", 0.5, 0.4, 1.0, 1e-4, 2e9)]))
    text = " ".join(console.export_text().split())
    assert "exact 2 0.500 0.400 0.900 1.000 -10 %" in text
    assert "W = 2: 100 us a collective and doubling, 2.00 GB/s" in text


def test_a_projection_here_starts_from_one_rank(capsys):
    assert main(["scale", "--here", "2", "--project"]) == 2
    assert "name W = 1 as well" in capsys.readouterr().err
