"""The recorder under FSDP2 on two ranks gives what it gives on a plain model in one process, in float64."""

import pytest
import torch
from torch import nn

from model.build import build_gpt2
from model.gpt2 import GPT2
from model.world import sum_over_ranks
from selection.ghost.recorder import GhostRecorder
from tests.helpers import oracle
from tests.helpers.ranks import on_ranks
from tests.helpers.recording import CONFIG, batch, close, record

GROUPS = 4
PICKS = [3, 1]


def data():
    torch.manual_seed(0)
    return [batch(6) for _ in range(1 + GROUPS)]


def quantities(recorder, model, target, groups, samples=None):
    """One step's direction, scores and grams of these groups, and the gradient of their picks, as plain tensors."""
    record(recorder, model, *target)
    direction, low_rank = recorder.direction(samples), recorder.direction(samples, rank=3)
    direction_blocks = {name: direction.block(name) for name in direction.blocks}
    measured = []
    for group in groups:
        record(recorder, model, *group)
        measured.append((*recorder.first_order_and_gram(direction), recorder.first_order(direction)))
        record(recorder.along(low_rank), model, *group)
        measured[-1] += (recorder.first_order(low_rank),)
        recorder.add_gradient(PICKS, scale=1 / (GROUPS * len(PICKS)))
    whole = (lambda g: g.full_tensor()) if hasattr(next(model.parameters()), "full_tensor") else (lambda g: g)
    return direction_blocks, measured, {name: whole(p.grad) for name, p in model.named_parameters()}


def sharded(world, recorder_first: bool):
    target, *groups = data()
    model = build_gpt2(CONFIG, world.mesh, "float64", seed=3)
    assert model.head.weight is model.wte.weight
    recorder = GhostRecorder(model)
    mine = [part[world.rank :: world.size] for part in target]
    found = quantities(recorder, model, mine, groups[world.rank :: world.size], samples=6)
    # Autograd's own gradient of the same picks, through FSDP2's reduce-scatter.
    recorded = {name: p.grad.full_tensor() for name, p in model.named_parameters()}
    model.zero_grad()
    for tokens_NT, targets_NT in groups[world.rank :: world.size]:
        (model(tokens_NT[PICKS], targets_NT[PICKS]).sum() / (GROUPS * len(PICKS))).backward()
    assert all(close(p.grad.full_tensor(), recorded[name]) for name, p in model.named_parameters())
    assert close(sum_over_ranks(torch.ones(1).double()), torch.tensor([float(world.size)]).double())
    return found


def test_two_ranks_equal_one_process():
    target, *groups = data()
    model = GPT2(CONFIG).double()
    model.initialise(seed=3)
    expected_direction, expected, expected_gradient = quantities(GhostRecorder(model), model, target, groups)

    results = on_ranks(2, sharded, True)
    for rank, (direction, measured, gradient) in enumerate(results):
        assert all(close(direction[name], block) for name, block in expected_direction.items())
        assert all(close(gradient[name], value) for name, value in expected_gradient.items())
        for found, wanted in zip(measured, expected[rank::2], strict=True):
            assert all(close(a, b) for a, b in zip(found, wanted, strict=True))


class Wrapped(nn.Module):
    """A model whose body alone is sharded, as a user's own loss around a sharded network is."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, tokens_NT, targets_NT):
        return self.body(tokens_NT, targets_NT)


def plain_gradients(world):
    """Gradients of a plain bfloat16 pass, by what came before it in the model's life."""
    _, (tokens_NT, targets_NT), *_ = data()
    mine = slice(world.rank, None, world.size)
    found = {}
    for before in ("nothing", "recorded", "recorded, wrapped", "not recorded", "a block recorded"):
        model = build_gpt2(CONFIG, world.mesh, "bfloat16", seed=3)
        called = Wrapped(model) if before == "recorded, wrapped" else model
        recorder = GhostRecorder(model.blocks[0] if before == "a block recorded" else called)
        if before == "not recorded":
            with pytest.raises(ValueError, match="no gradient was recorded for"), recorder:
                pass
        if before != "nothing":
            record(recorder, called, tokens_NT, targets_NT)
            recorder.release()
            model.zero_grad()  # of what no recorder froze
            assert all(p.requires_grad for p in model.parameters())
        (called(tokens_NT[mine], targets_NT[mine]).sum() / 6).backward()
        found[before] = {name: p.grad.full_tensor() for name, p in model.named_parameters()}
    return found


def test_a_recorded_pass_may_be_a_sharded_models_first():
    """FSDP2 learns its dtypes at its first forward, from parameters that are trainable: frozen ones told it none.

    Passes in bfloat16, gradients reduced and kept in float32, whatever came first; near float64 autograd.
    """
    _, batch_6, *_ = data()
    exact = GPT2(CONFIG)
    exact.initialise(seed=3)
    expected = oracle.mean(oracle.gradients_of_samples(exact.double(), *batch_6))
    for found in on_ranks(2, plain_gradients):
        for name, gradient in expected.items():
            for gradients in found.values():
                assert gradients[name].dtype == torch.float32
                assert torch.equal(gradients[name], found["nothing"][name])
            assert (found["nothing"][name] - gradient).norm() < 0.05 * gradient.norm()


def gradients_where_one_rank_picks_none(world):
    """By how it is made, the gradient of PICKS of a group on rank 0; rank 1 takes part with a group and no pick."""
    _, *groups = data()
    tokens_NT, targets_NT = groups[world.rank]
    picks = [] if world.rank == 1 else PICKS
    model = build_gpt2(CONFIG, world.mesh, "float64", seed=3)
    found = {}

    def take(how):
        found[how] = {name: p.grad.full_tensor() for name, p in model.named_parameters()}
        model.zero_grad()

    model(tokens_NT[picks], targets_NT[picks]).sum().backward()
    take("plain pass")
    for scored in ("all", "blocks"):
        recorder = GhostRecorder(model, lambda name, scored=scored: scored == "all" or name.startswith("blocks."))
        record(recorder, model, tokens_NT, targets_NT)
        direction = recorder.direction(rank=3)
        # What is asked before: nothing that has the head's weight gathered, or something that has.
        for ask in ("first_order", "gram", "first_order_and_gram", "squared_norms"):
            record(recorder.along(direction), model, tokens_NT, targets_NT)
            getattr(recorder, ask)(*([direction] if "first" in ask else []))
            recorder.add_gradient(picks, scale=1.0)
            take(f"{ask}, {scored}")
    return found


def test_a_rank_without_a_pick_takes_part():
    """Whatever a rank holds, it makes the calls between ranks that the others make; where not, these time out."""
    _, (tokens_NT, targets_NT), *_ = data()
    model = GPT2(CONFIG).double()
    model.initialise(seed=3)
    expected = oracle.mean(oracle.gradients_of_samples(model, tokens_NT[PICKS], targets_NT[PICKS]))
    for found in on_ranks(2, gradients_where_one_rank_picks_none):
        for how, gradients in found.items():
            assert all(close(gradients[name], len(PICKS) * expected[name]) for name in expected), how
