"""What a step sends: the same weights on however many ranks, in few collectives, none of which grow with the groups."""

import dataclasses

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from model.build import build_gpt2
from model.gpt2 import GPT2, GPT2Config
from model.optimizer import build_adamw, clip_gradient
from model.world import make_mesh
from selection.direction import buckets
from selection.methods import METHODS
from selection.selector import Selector
from selection.settings import Selection, replaced
from tests.helpers.ranks import Travels, on_ranks
from tests.helpers.recording import CONFIG
from tests.helpers.selecting import RATE, batch, tokens

GROUPS, STEPS, M = 4, 3, 4
ARMS = {
    "regular": {},
    "topk": {},
    "topk, rank 3": {"direction.rank": 3, "direction.decay": 0.5},
    "topk, narrow": {"direction.rank": 1, "direction.decay": 0.5},
    "topk, prefix": {"scoring.prefix": 4},
    "topk, pool": {"pool": "step"},
    "topk, pool, prefix": {"pool": "step", "scoring.prefix": 4},
    "greats": {"scoring.parameters": "blocks", "interaction.curvature": 100.0},
    "opus": {},
    "momentum": {},
    "maxloss": {},
}


def settings(arm: str) -> Selection:
    chosen = Selection(arm.partition(",")[0], picks=2)
    if METHODS[chosen.method].chooses:
        chosen = replaced(chosen, "candidates", 5)
    if METHODS[chosen.method].aims:
        chosen = replaced(chosen, "direction.samples", M)
    for key, value in ARMS[arm].items():
        chosen = replaced(chosen, key, value)
    return chosen


def trained(model, rank, size, arm, held):
    """(picks of this rank's groups by step and group, the weights) after a few steps, the groups dealt to the ranks."""
    chosen, lanes, picks = settings(arm), range(rank, GROUPS, size), []
    optimizer = build_adamw(model, RATE, weight_decay=0.1)

    def target(step):
        return tuple(part[rank::size] for part in batch(tokens(7, step, samples=M) // 2))

    selector = Selector(
        chosen, model, optimizer, groups=GROUPS, batch=batch, target=target, lanes=lanes, seed=1, held=held
    )
    for step in range(STEPS):
        drawn = torch.stack([tokens(3, step, lane, samples=chosen.drawn) for lane in lanes])
        for lane, choice in zip(lanes, selector.choose(step, drawn, None, RATE), strict=True):
            picks.append((step, lane, choice.picks.tolist()))
        clip_gradient(model, 1.0)
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
        optimizer.zero_grad()
    weights = {
        name: p.detach().full_tensor() if isinstance(p, DTensor) else p.detach() for name, p in model.named_parameters()
    }
    return picks, weights


NARROW = dataclasses.replace(CONFIG, n_embd=2, n_head=1)  # its norms have fewer numbers than there are ranks
REPLICAS = (1, 2, 4)


def trained_on_four_ranks(world, arms):
    found = {}
    for replicas in REPLICAS:
        mesh = make_mesh("cpu", world.size, replicas)
        for arm in arms:
            model = build_gpt2(NARROW, mesh, "float64", seed=3)
            found[replicas, arm] = trained(model, world.rank, world.size, arm, held=True)
    return found


def test_parts_may_be_empty_and_repeated():
    """Four ranks, as one, two and four replicas, of a model whose smallest parameters have two numbers."""
    arms = ["regular", "topk", "topk, narrow"]
    ranks = on_ranks(4, trained_on_four_ranks, arms)
    for arm in arms:
        model = GPT2(NARROW).double()
        model.initialise(seed=3)
        expected_picks, expected = trained(model, 0, 1, arm, held=True)
        for replicas in REPLICAS:
            picks = [pick for found in ranks for pick in found[replicas, arm][0]]
            assert sorted(picks) == sorted(expected_picks), (arm, replicas)
            for found in ranks:
                for name, weight in expected.items():
                    error = (found[replicas, arm][1][name] - weight).abs().max()
                    assert error <= 1e-9 * weight.abs().max(), (arm, replicas, name)


def trained_on_ranks(world):
    """By arm, and whether parameters and gradients were held."""
    return {
        (arm, held): trained(build_gpt2(CONFIG, world.mesh, "float64", seed=3), world.rank, world.size, arm, held)
        for arm in ARMS
        for held in (True, False)
    }


def test_two_ranks_train_as_one_process_held_or_not():
    both = on_ranks(2, trained_on_ranks)
    for arm in ARMS:
        model = GPT2(CONFIG).double()
        model.initialise(seed=3)
        expected_picks, expected = trained(model, 0, 1, arm, held=True)
        for held in (True, False):
            picks = [pick for found in both for pick in found[arm, held][0]]
            assert sorted(picks) == sorted(expected_picks), (arm, held)
            for name, weight in expected.items():
                found = both[0][arm, held][1][name]
                assert (found - weight).abs().max() <= 1e-9 * weight.abs().max(), (arm, held, name)


def in_half_precision(world):
    """The gradients of two groups a rank in bfloat16 by assembly and by plain passes, held and not, as float32."""
    found = {}
    for arm in ("topk", "topk, prefix"):
        for held in (True, False):
            model = build_gpt2(CONFIG, world.mesh, "bfloat16", seed=3)
            chosen = replaced(settings(arm), "picks", 5)  # of five: the scores decide nothing
            parts = {"groups": GROUPS, "batch": batch, "held": held, "lanes": range(world.rank, GROUPS, 2)}
            selector = Selector(chosen, model, None, target=lambda _: batch(tokens(7, samples=2)), **parts)
            drawn = torch.stack([tokens(3, lane, samples=5) for lane in range(world.rank, GROUPS, 2)])
            for step in range(2):  # the first pass of all was a recorded one
                model.zero_grad()
                selector.choose(step, drawn, None, RATE)
            found[arm, held] = {name: p.grad.full_tensor() for name, p in model.named_parameters()}
    return found


def test_gradients_of_half_precision_passes_are_summed_in_the_wide_one():
    (found, _) = on_ranks(2, in_half_precision)
    expected = found["topk", False]
    for key, gradients in found.items():
        for name, gradient in gradients.items():
            assert gradient.dtype == torch.float32
            assert (gradient - expected[name]).norm() < 0.03 * expected[name].norm(), (key, name)


# GPT-2 small at an eighth of its widths, buckets and rank 8 to match, so that counts and ratios are those of the whole;
# on the first of eight ranks that are made up: their collectives send nothing and are counted.
RANKS, SMALL = 8, GPT2Config(vocab_size=50257 // 8, n_layer=12, n_head=12, n_embd=768 // 8, sequence_length=1024 // 8)
SHORT = 5  # tokens a sample: nothing that travels depends on it


@pytest.fixture(scope="module")
def small():
    """(groups a rank, settings) -> what a step sends, the first of a selector."""
    whole, buckets.BUCKET_BYTES = buckets.BUCKET_BYTES, buckets.BUCKET_BYTES // 8**2
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=RANKS)
    mesh = dist.device_mesh.init_device_mesh("cpu", (RANKS,), mesh_dim_names=("shard",))
    model = build_gpt2(SMALL, mesh, "bfloat16", seed=3)

    def ids(*shape):
        return torch.randint(0, SMALL.vocab_size, (*shape, SHORT + 1))

    def step(groups: int, chosen: Selection) -> Travels:
        lanes = range(0, groups * RANKS, RANKS)
        parts = {"groups": groups * RANKS, "batch": batch, "lanes": lanes, "target": lambda _: batch(ids(1))}
        selector = Selector(chosen, model, None, **parts)
        model.zero_grad()
        with Travels() as sent:
            selector.choose(0, ids(groups, chosen.drawn), None, RATE)
            clip_gradient(model, 1.0)
        return sent

    yield step
    dist.destroy_process_group()
    buckets.BUCKET_BYTES = whole


PLAIN = Selection("regular", 1)
SCORED = {
    "exact": Selection("topk", 1, 2),
    "interactions": Selection("greats", 1, 2),
    "low rank": replaced(Selection("topk", 1, 2), "direction.rank", 8 // 8),
    "running": replaced(replaced(Selection("topk", 1, 2), "direction.rank", 8 // 8), "direction.decay", 0.9),
}


def test_a_scored_step_of_gpt2_small_makes_few_more_collectives_than_a_plain_one(small):
    """Of four groups a rank: at most 1.5 times as many, and as many as with one group."""
    plain = small(4, PLAIN)
    assert plain.count("allgather") == plain.count("reduce_scatter") == 1 + SMALL.n_layer
    for name, chosen in SCORED.items():
        scored = small(4, chosen)
        assert scored.count() <= 1.5 * plain.count(), name
        assert [kind for kind, _ in scored.made] == [kind for kind, _ in small(1, chosen).made], name


@pytest.mark.parametrize("groups", [1, 4])
def test_scoring_every_eighth_step_adds_little_to_what_fsdp_sends(small, groups):
    """GPT-2 small in bfloat16: at most 5 % of the bytes."""
    plain, scored = small(groups, PLAIN).bytes(), small(groups, SCORED["running"]).bytes()
    assert scored - plain <= 0.05 * 8 * plain
