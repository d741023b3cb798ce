"""Steps of ranks that are there, in processes of their own."""

from rich.console import Console

from model.gpt2 import GPT2Config
from scripts.bench.scale.measured import Measured, measure, table


def test_two_ranks_train_on_twice_the_picks():
    shape = GPT2Config(vocab_size=64, n_layer=1, n_head=1, n_embd=8, sequence_length=16)
    found = measure(2, "amortised", picks=2, rounds=1, shape=shape)
    assert abs(sum(found.phases) - found.seconds) < 1e-9
    assert min(found.phases) > 0
    assert abs(found.tokens_per_second * found.seconds - 2 * 2 * 16) < 1e-6
    assert abs(found.candidates_per_second * found.seconds - 2 * 16) < 1e-6


def test_efficiency_is_of_a_rank():
    phases = (0.1, 0.2, 0.3)
    one, two = (Measured(ranks, "exact", phases, 0.6, tokens, 1.0, 10**8) for ranks, tokens in ((1, 100.0), (2, 150.0)))
    console = Console(width=140, record=True)
    console.print(table([one, two]))
    assert "exact 2 0.600 0.100 0.200 0.300 150 1.0 0.75 100" in " ".join(console.export_text().split())
