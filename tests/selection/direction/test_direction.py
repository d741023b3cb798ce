"""The forms of the validation direction: low-rank, running average, preconditioned; whole and sharded."""

import copy

import pytest
import torch

from model.build import build_gpt2
from model.gpt2 import GPT2
from model.optimizer import build_adamw
from selection.direction.exact import Direction, whole
from selection.direction.low_rank import LowRank
from selection.direction.preconditioned import adam_preconditioned
from selection.direction.running import RunningDirection
from selection.ghost.factors import FusedHead
from selection.ghost.recorder import GhostRecorder
from tests.helpers import oracle
from tests.helpers.counting import Launches
from tests.helpers.ranks import on_ranks
from tests.helpers.recording import CONFIG, batch, close, gpt2, record


def of_rank(rows: int, columns: int, rank: int) -> torch.Tensor:
    return torch.randn(rows, rank).double() @ torch.randn(rank, columns).double()


def test_a_matrix_of_low_rank_is_found_exactly():
    torch.manual_seed(0)
    exact = Direction({"a": of_rank(30, 12, 3), "b": of_rank(8, 40, 2), "bias": torch.randn(9), "small": torch.eye(3)})
    found = exact.low_rank(3)
    assert isinstance(found.blocks["a"], LowRank)
    assert found.blocks["a"].left_or.shape == (30, 3)
    assert found.blocks["a"].right_ir.shape == (12, 3)
    assert close(found.blocks["a"].whole(), exact.blocks["a"])
    assert close(found.blocks["b"].whole(), exact.blocks["b"])
    assert found.blocks["bias"] is exact.blocks["bias"]
    assert found.blocks["small"] is exact.blocks["small"]


def test_matrices_of_one_shape_are_orthonormalised_together_and_start_from_noise_made_once():
    torch.manual_seed(0)
    exact = Direction(
        {name: torch.randn(31, 13) for name in "abc"} | {"d": torch.randn(9, 13), "e": torch.randn(31, 7)}
    )
    exact.low_rank(3)
    with Launches() as launched:
        again = exact.low_rank(3)
    assert launched.names.count("aten::linalg_qr") == 2 * len({13, 7})
    assert not any("normal" in name for name in launched.names)
    for name, block in exact.blocks.items():
        alone = Direction({name: block}).low_rank(3).blocks[name]
        torch.testing.assert_close(again.blocks[name].whole(), alone.whole(), rtol=1e-4, atol=1e-5)


def test_the_leading_directions_are_kept():
    """On a matrix with a decaying spectrum the error is close to the best any matrix of that rank can do."""
    torch.manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(60, 40).double()).Q for _ in range(2))
    values = 0.7 ** torch.arange(40).double()
    matrix = left @ torch.diag(values) @ right.T
    found = Direction({"a": matrix}).low_rank(6).blocks["a"].whole()
    best_error = values[6:].square().sum().sqrt()
    assert best_error <= (matrix - found).norm() <= 1.15 * best_error


def test_scores_of_a_low_rank_direction_are_those_of_its_whole_form():
    torch.manual_seed(0)
    model = gpt2()
    recorder = GhostRecorder(model)
    record(recorder, model, *batch(4))
    low = recorder.direction(rank=2)
    assert sum(isinstance(block, LowRank) for block in low.blocks.values()) == 2 + 2 * 4
    dense = Direction({name: b.whole() if isinstance(b, LowRank) else b for name, b in low.blocks.items()})
    tokens_NT, targets_NT = batch(5)
    truth = oracle.gradients_of_samples(model, tokens_NT, targets_NT)
    record(recorder, model, tokens_NT, targets_NT)
    expected_N = torch.stack([oracle.flat(g) @ oracle.flat(dense.blocks) for g in truth])
    assert close(recorder.first_order(low), expected_N)
    assert close(recorder.first_order_and_gram(low)[0], expected_N)


def test_a_fused_head_measures_its_share_on_the_way():
    """With and without along(direction): the same losses, scores and gradient, and the logits are made once less."""
    torch.manual_seed(0)
    model = gpt2()
    recorder = GhostRecorder(model)
    record(recorder, model, *batch(4))
    low = recorder.direction(rank=2)
    tokens_NT, targets_NT = batch(5)
    expected_losses_N = record(recorder, model, tokens_NT, targets_NT)
    expected_N = recorder.first_order(low)
    recorder.add_gradient([1, 3], 0.5)
    expected_gradient = model.wte.weight.grad.clone()
    model.zero_grad()
    weight = model.head.weight
    losses_N = record(recorder.along(low), model, tokens_NT, targets_NT)
    assert model.head.weight is weight is model.wte.weight
    assert close(losses_N, expected_losses_N)
    (head,) = (use for use in recorder._uses["wte.weight"] if isinstance(use, FusedHead))
    head.logit_gradient = None  # would be called if the logits were made again
    assert close(recorder.first_order(low), expected_N)
    head.logit_gradient = model.head.logit_gradient
    recorder.add_gradient([1, 3], 0.5)
    assert close(model.wte.weight.grad, expected_gradient)
    other = recorder.direction(rank=2)
    expected_other_N = recorder.first_order(other)
    record(recorder, model, tokens_NT, targets_NT)
    assert close(recorder.first_order(other), expected_other_N)


def test_the_running_average_is_bias_corrected():
    torch.manual_seed(0)
    model = gpt2()
    recorder, running = GhostRecorder(model), RunningDirection(decay=0.75)
    fresh = []
    for _ in range(3):
        record(recorder, model, *batch(2))
        fresh.append(recorder.direction().blocks)
        averaged = running.update(recorder).blocks
        weights = [0.25 * 0.75 ** (len(fresh) - 1 - s) for s in range(len(fresh))]
        for name, block in averaged.items():
            expected = sum(w * f[name] for w, f in zip(weights, fresh, strict=True)) / sum(weights)
            assert close(block, expected), name


def test_its_state_goes_on_where_it_was_saved():
    torch.manual_seed(0)
    model = gpt2()
    recorder, running, resumed = GhostRecorder(model), RunningDirection(0.9, rank=2), RunningDirection(0.9, rank=2)
    record(recorder, model, *batch(2))
    running.update(recorder)
    resumed.load_state_dict(copy.deepcopy(running.state_dict()))
    record(recorder, model, *batch(2))
    one, two = running.update(recorder), resumed.update(recorder)
    for name, block in one.blocks.items():
        other = two.blocks[name]
        if isinstance(block, LowRank):
            block, other = block.whole(), other.whole()
        assert torch.equal(block, other)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="decay must be at least 0 and below 1, not 1"):
        RunningDirection(decay=1)
    with pytest.raises(ValueError, match="rank must be at least 0"):
        RunningDirection(decay=0, rank=-1)


def test_preconditioned_scores_predict_what_an_adamw_step_does():
    """With the second moment held still, the loss falls by eta <g_i, P v> along the step -eta P g_i, to first order."""
    torch.manual_seed(0)
    model = gpt2()
    optimizer = build_adamw(model, learning_rate=1e-3, weight_decay=0.0)
    parameters = dict(model.named_parameters())
    recorder = GhostRecorder(model)
    record(recorder, model, *batch(4))
    assert adam_preconditioned(recorder.direction(), optimizer, parameters).blocks["ln_f.weight"].norm() > 0
    for _ in range(3):
        model(*batch(4)).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    target, candidate = batch(4), [part[1:2] for part in batch(3)]
    record(recorder, model, *target)
    raw = recorder.direction()
    preconditioned = adam_preconditioned(raw, optimizer, parameters)
    record(recorder, model, *candidate)
    score = recorder.first_order(preconditioned).item()
    gradient = recorder.direction()
    moved = adam_preconditioned(gradient, optimizer, parameters)
    eta = 1e-7
    with torch.no_grad():
        before = model(*target).mean()
        for name, parameter in model.named_parameters():
            parameter.sub_(eta * moved.blocks[name])
        drop = (before - model(*target).mean()).item()
    assert drop / eta == pytest.approx(score, rel=1e-3)
    assert score != pytest.approx(recorder.first_order(raw).item(), rel=0.1)


def _forms(model, rank=0, size=1):
    """Whole blocks of every form of direction after an AdamW step and two updates, the samples dealt to the ranks."""
    optimizer = build_adamw(model, learning_rate=1e-3, weight_decay=0.1)
    torch.manual_seed(5)
    model(*(part[rank::size] for part in batch(4))).sum().backward()
    optimizer.step()
    recorder, running, forms = GhostRecorder(model), RunningDirection(0.5, rank=3), []
    for part in (0, 1):
        torch.manual_seed(part)
        record(recorder, model, *(part[rank::size] for part in batch(6)))
        forms.append(running.update(recorder, samples=6))
    forms.append(recorder.direction(samples=6, rank=3))
    forms.append(adam_preconditioned(recorder.direction(samples=6), optimizer, dict(model.named_parameters())))
    return [
        {name: b.whole() if isinstance(b, LowRank) else whole(b) for name, b in form.blocks.items()} for form in forms
    ]


def _sharded_forms(world):
    return _forms(build_gpt2(CONFIG, world.mesh, "float64", seed=3), world.rank, world.size)


def test_every_form_is_the_same_on_two_ranks():
    model = GPT2(CONFIG).double()
    model.initialise(seed=3)
    expected = _forms(model)
    for found in on_ranks(2, _sharded_forms):
        for form, wanted in zip(found, expected, strict=True):
            for name, block in wanted.items():
                assert (form[name] - block).abs().max() <= 1e-7 * block.abs().max(), name
