"""The recorder under FSDP2 on two ranks gives what it gives on a plain model in one process, in float64."""

import torch

from model.build import build_gpt2
from model.gpt2 import GPT2
from model.world import sum_over_ranks
from selection.ghost.recorder import GhostRecorder
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
