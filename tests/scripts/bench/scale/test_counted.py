"""What is counted of ranks that are not there is what ranks that are there do."""

import json
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import pytest
from rich.console import Console

from model.gpt2 import GPT2, GPT2Config
from scripts.bench.__main__ import main
from scripts.bench.scale.counted import Counted, count, count_here
from scripts.bench.scale.fake import Counts
from scripts.bench.scale.processes import copies
from scripts.bench.scale.projected import Hardware, projected, seconds
from scripts.bench.scale.rank import Rank, arm
from scripts.bench.scale.scale import Row
from scripts.bench.scale.tables import by_purpose, totals
from tests.helpers.ranks import on_ranks

SHAPE = GPT2Config(vocab_size=512, n_layer=3, n_head=2, n_embd=32, sequence_length=32)
ARMS = {"regular": arm("regular", 2), "amortised": arm("amortised", 2), "exact": arm("exact", 2)}
GROUPS = 2


def really(world) -> list[tuple[dict, dict, dict]]:
    """A step of every arm counted among ranks that are there, with tensors that have numbers."""
    found = []
    for settings in ARMS.values():
        rank = Rank(world, SHAPE, settings, "float32", False, GROUPS)
        rank.update(rank.choose(0))
        with Counts() as counts:
            rank.update(rank.choose(8))
        operations = dict(counts.operations)
        with counts:
            rank.learn()
        found.append((dict(counts.calls), dict(counts.sent), operations))
    return found


def faked() -> list[tuple[dict, dict, dict]]:
    found = []
    for settings in ARMS.values():
        (step,) = count_here(SHAPE, settings, size=2, groups=GROUPS, steps=(8,), dtype="float32", as_on_a_gpu=False)
        found.append((dict(step.calls), dict(step.sent), dict(step.operations)))
    return found


def test_a_fake_rank_does_what_a_real_one_does():
    with ProcessPoolExecutor(1, copies()) as one:
        assert one.submit(faked).result() == on_ranks(2, really)[0]


def test_plain_training_sends_every_parameter_twice_and_its_gradient_once():
    """A block is gathered in forward and in backward, the root once; products are those of the textbook."""
    model = GPT2(SHAPE)
    block = sum(p.numel() for p in model.blocks[0].parameters())
    root = sum(p.numel() for p in model.parameters()) - 3 * block
    (found,) = count(SHAPE, ARMS["regular"], size=4)
    by_fsdp = sum(size for (_, fsdp), size in found.sent.items() if fsdp)
    assert by_fsdp == 3 / 4 * (2 * (2 * 3 * block + root) + 4 * (3 * block + root))
    attention = 3 * 2 * 4 * 32 * 32 * 32  # layers, samples: forward; 2.5 times as much backward
    weights = 2 * 2 * 32 * (3 * (12 * 32 * 32) + 512 * 32)
    assert found.operations.total() == 3 * weights + 3.5 * attention


def test_shards_of_more_ranks_are_smaller_and_the_last_holds_least():
    places = (2, 0), (24, 0), (24, 23)
    peaks = [count(SHAPE, ARMS["regular"], size=size, rank=rank)[0].peak_bytes for size, rank in places]
    assert peaks[0] > peaks[1] > peaks[2]


def test_the_command_tells_scored_steps_from_those_between(capsys, monkeypatch):
    monkeypatch.setattr("scripts.bench.scale.scale.shape_of", lambda size: SHAPE)
    command = ["scale", "--ranks", "2", "--arms", "regular", "amortised", "--picks", "2"]
    assert main([*command, "--json"]) == 0
    plain, scored, between = json.loads(capsys.readouterr().out)["steps"]
    assert scored["operations"]["scores"] > 0
    assert plain["host_reads"] == scored["host_reads"] == between["host_reads"] == 0
    assert between["operations"] == plain["operations"]
    assert {c["purpose"] for c in scored["collectives"]} >= {"direction", "picks' gradient", "predictor"}
    assert {c["purpose"] for c in between["collectives"]} == {c["purpose"] for c in plain["collectives"]}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [(["--ranks", "1"], "nothing travels among fewer than 2"), (["--picks", "0"], "--picks must be at least 1, not 0")],
)
def test_what_cannot_be_counted_is_refused(options, sentence, capsys):
    assert main(["scale", *options]) == 2
    assert sentence in capsys.readouterr().err


def test_the_tables_compare_with_plain_training():
    kinds = {("training", True): 30, ("clip", False): 2}
    steps = ("regular", kinds, 0), ("exact", kinds | {("scores", False): 16}, 3)
    rows = []
    for name, calls, reads in steps:
        counted = Counted(Counter(calls), Counter(dict.fromkeys(calls, 10**6)), Counter(), reads, 2**30)
        rows.append(Row("124M", 8, name, counted, 2**29))
    console = Console(width=110, record=True)
    console.print(totals(rows))
    console.print(by_purpose(rows))
    text = " ".join(console.export_text().split())
    assert "124M 8 exact 48 1.50 3.0 1.50 3 1.00 0.50" in text
    assert "124M 8 exact FSDP2, in training 30 1.0" in text


def test_a_projection_is_what_its_four_numbers_say():
    """128 ranks are 7 doublings: 2 s of products; 3 s of bytes and 7 collectives of 0.5 s for each doubling."""
    hardware = Hardware(peak=100.0, utilisation=0.5, bandwidth=10.0, latency=0.5)
    counted = Counted(Counter({("a", True): 7}), Counter({("a", True): 30}), Counter({"training": 100}), 0, 1)
    assert seconds(counted, 128, hardware) == (2.0, 3.0 + 7 * 7 * 0.5)
    more = Counted(Counter({("a", True): 14}), Counter({("a", True): 30}), Counter({"scores": 900}), 0, 1)
    names = ("regular", counted), ("amortised, scored", more), ("amortised, between", counted)
    console = Console(width=140, record=True)
    console.print(projected([Row("124M", 128, name, each, 1) for name, each in names], hardware))
    text = " ".join(console.export_text().split())
    assert "amortised, scored 18.0000 52.0000 70.0000 2.37 52.0000 1.89" in text
    assert "amortised, mean of 8 4.0000 30.5625 34.5625 1.17 30.5625 1.11" in text
