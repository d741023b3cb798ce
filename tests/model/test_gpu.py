"""On a GPU what a CPU gives: for whoever has one. `make test-gpu` runs these; without one each is skipped by name."""

import numpy as np
import pytest
import torch

from model.optimizer import build_adamw, step_unless
from selection.ghost import GhostRecorder
from selection.selector import Selector
from selection.settings import DirectionSettings, Selection
from tests.helpers import oracle
from tests.helpers.recording import batch, close, gpt2, record
from tests.helpers.runs import measured, run_on_two_ranks

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]


def on_gpu(*tensors):
    return [tensor.cuda() for tensor in tensors]


def test_scores_gram_and_gradient_on_a_gpu_equal_autograd():
    torch.manual_seed(0)
    model = gpt2().cuda()
    tokens_NT, targets_NT = on_gpu(*batch(5))
    truth = oracle.gradients_of_samples(model, tokens_NT, targets_NT)
    flat_NP = torch.stack([oracle.flat(g) for g in truth])
    recorder = GhostRecorder(model)
    record(recorder, model, tokens_NT, targets_NT)
    direction = recorder.direction()
    scores_N, gram_NN = recorder.first_order_and_gram(direction)
    assert close(scores_N, flat_NP @ flat_NP.mean(dim=0))
    assert close(recorder.first_order(direction), flat_NP @ flat_NP.mean(dim=0))
    assert close(gram_NN, flat_NP @ flat_NP.T)
    recorder.add_gradient(torch.tensor([4, 1, -1]).cuda(), scale=0.5)
    for name, parameter in model.named_parameters():
        assert close(parameter.grad, 0.5 * (truth[4][name] + truth[1][name])), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_and_scores_on_a_gpu_are_those_of_a_cpu(dtype):
    """To the rounding of the passes: bfloat16 has 8 bits."""
    torch.manual_seed(0)
    model, (tokens_NT, targets_NT) = gpt2().to(dtype), batch(5)
    found = []
    for place in ("cpu", "cuda"):
        model.to(place)
        recorder = GhostRecorder(model)
        losses_N = record(recorder, model, tokens_NT.to(place), targets_NT.to(place))
        scores_N = recorder.first_order(recorder.direction(rank=2))
        found.append((losses_N.detach().float().cpu(), scores_N.float().cpu()))
    relative = 2e-2 if dtype == torch.bfloat16 else 1e-4
    for cpu_N, gpu_N in zip(*found, strict=True):
        assert (cpu_N - gpu_N).abs().max() <= relative * cpu_N.abs().max()


@pytest.mark.parametrize("method", ["regular", "topk", "greats"])
def test_a_step_on_a_gpu_waits_for_nothing(method):
    torch.manual_seed(0)
    model = gpt2().float().cuda()
    optimizer = build_adamw(model, 1e-3, 0.1)
    settings = Selection(method, 2, 4 if method != "regular" else 2, DirectionSettings(2, 2 if method == "topk" else 0))

    def moved(tokens_NT1):
        tokens = tokens_NT1.pin_memory().to("cuda", non_blocking=True)
        return tokens[:, :-1], tokens[:, 1:]

    target = torch.randint(0, 23, (2, 10))
    selector = Selector(settings, model, optimizer, groups=1, batch=moved, target=lambda step: moved(target))
    draw = np.random.default_rng(0)
    for step in range(4):
        tokens_1nT1 = torch.from_numpy(draw.integers(0, 23, (1, settings.drawn, 10)))
        torch.cuda.set_sync_debug_mode("error" if step > 1 else "default")  # libraries are set up in the first steps
        try:
            selector.choose(step, tokens_1nT1, None, 1e-3)
            selector.look_ahead(None)
            selector.send_scores()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            step_unless(optimizer, ~torch.isfinite(norm))
            optimizer.zero_grad()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_an_unfit_update_on_a_gpu_changes_nothing():
    model = gpt2().float().cuda()
    optimizer = build_adamw(model, 1e-3, 0.1)
    for unfit in (False, True):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, torch.nan if unfit else 0.5)
        before = [p.clone() for p in model.parameters()]
        step_unless(optimizer, torch.tensor(unfit).cuda())
        assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True)) == unfit
    assert all(float(optimizer.state[p]["step"]) == 1 for p in model.parameters())


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are not two GPUs")
def test_a_run_of_two_gpus_by_nccl_trains(dataset, tmp_path):
    out = run_on_two_ranks(dataset, tmp_path / "run", train__device="cuda", train__dtype="bfloat16")
    losses = [loss for (loss,) in measured(out, "train_loss")]
    assert len(losses) == 6
    assert all(np.isfinite(losses))
