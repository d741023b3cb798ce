"""The recorder against plain autograd, one sample at a time, in float64."""

import pytest
import torch
from torch import nn

from model.gpt2 import GPT2
from selection.ghost import factors as uses
from selection.ghost import parameters as totals
from selection.ghost.recorder import GhostRecorder
from tests.helpers import oracle
from tests.helpers.recording import batch, close, gpt2, mean_loss, record


class PlainGPT2(GPT2):
    """GPT-2 whose loss goes through whole logits and an ordinary Linear call."""

    def forward(self, tokens_NT, targets_NT=None):
        logits_NTV = super().forward(tokens_NT)
        return logits_NTV if targets_NT is None else mean_loss(logits_NTV, targets_NT)


class Bare(nn.Module):
    """Linear layers without bias, LayerNorm without bias, an embedding with padding, an untied head; no attention."""

    def __init__(self, vocabulary: int, width: int):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width, padding_idx=0)
        self.norm = nn.LayerNorm(width, bias=False)
        self.up = nn.Linear(width, 3 * width, bias=False)
        self.down = nn.Linear(3 * width, width)
        self.head = nn.Linear(width, vocabulary, bias=True)

    def forward(self, tokens_NT, targets_NT):
        hidden = self.embed(tokens_NT)
        hidden = hidden + self.down(torch.tanh(self.up(self.norm(hidden))))
        return mean_loss(self.head(hidden.cumsum(dim=1)), targets_NT)


MODELS = {
    "gpt2, fused tied head": lambda: gpt2(),
    "gpt2, plain tied head": lambda: gpt2(PlainGPT2),
    "no bias, untied, padding": lambda: Bare(23, 12).double(),
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]()


@pytest.fixture(params=["whole", "chunked"])
def _chunks(request, monkeypatch):
    """Every block size once as shipped, once so small that each loop runs many times."""
    if request.param == "chunked":
        monkeypatch.setattr("model.loss.CPU_TOKENS", 4)
        monkeypatch.setattr("model.loss.CPU_ELEMENTS", 23 * 4)
        monkeypatch.setattr(totals, "CPU_ELEMENTS", 5 * 12 * 2)


@pytest.mark.usefixtures("_chunks")
def test_scores_gram_and_gradient_equal_autograd(model):
    target_tokens, target_targets = batch(3)
    tokens_NT, targets_NT = batch(5)
    truth = oracle.gradients_of_samples(model, tokens_NT, targets_NT)
    v = oracle.mean(oracle.gradients_of_samples(model, target_tokens, target_targets))
    flat_NP = torch.stack([oracle.flat(g) for g in truth])

    recorder = GhostRecorder(model)
    record(recorder, model, target_tokens, target_targets)
    direction = recorder.direction()
    assert all(close(direction.block(name), value) for name, value in v.items())

    record(recorder, model, tokens_NT, targets_NT)
    assert close(recorder.first_order(direction), flat_NP @ oracle.flat(v))
    assert close(recorder.gram(), flat_NP @ flat_NP.T)
    assert close(recorder.squared_norms(), flat_NP.square().sum(dim=1))
    scores_N, gram_NN = recorder.first_order_and_gram(direction)
    assert close(scores_N, flat_NP @ oracle.flat(v))
    assert close(gram_NN, flat_NP @ flat_NP.T)

    recorder.add_gradient([4, 1], scale=0.5)
    recorder.add_gradient(torch.tensor([-1, 0, -1]), scale=2.0)  # -1: none
    for name, parameter in model.named_parameters():
        expected = 0.5 * (truth[4][name] + truth[1][name]) + 2.0 * truth[0][name]
        assert close(parameter.grad, expected), name


def test_a_place_without_a_pick_brings_nothing_not_even_of_a_broken_sample(model):
    """-1 among the picks, where the last sample, which -1 would index, is not finite."""
    tokens_NT, targets_NT = batch(3)
    truth = oracle.gradients_of_samples(model, tokens_NT, targets_NT)
    recorder = GhostRecorder(model)
    with recorder:
        losses_N = model(tokens_NT, targets_NT)
        (losses_N * torch.tensor([1.0, 1.0, torch.nan])).sum().backward()
    recorder.add_gradient(torch.tensor([1, -1]), scale=1.0)
    for name, parameter in model.named_parameters():
        assert close(parameter.grad, truth[1][name]), name


def test_gram_by_token_pairs_and_by_rows_agree():
    """Wide layers over few tokens take the pair form, narrow layers over many tokens the materialised one."""
    left_NTo, right_NTi = torch.randn(4, 2, 30).double(), torch.randn(4, 2, 20).double()
    use = uses.OuterProduct(left_NTo, right_NTi)
    assert use.pairs_cost_less()
    gradients_NP = torch.einsum("nto,nti->noi", left_NTo, right_NTi).flatten(1)
    assert close(use.gram(), gradients_NP @ gradients_NP.T)
    assert not uses.OuterProduct(torch.randn(4, 50, 3), torch.randn(4, 50, 2)).pairs_cost_less()


def test_sketches_are_projections_of_each_samples_gradient(model):
    tokens_NT, targets_NT = batch(4)
    truth = oracle.gradients_of_samples(model, tokens_NT, targets_NT)
    recorder = GhostRecorder(model)
    record(recorder, model, tokens_NT, targets_NT)
    for name, used in recorder._uses.items():
        if not isinstance(used[0], uses.PerSample):
            left, right = torch.randn(used[0].rows, 3).double(), torch.randn(used[0].row_size, 3).double()
            expected = torch.stack([left.T @ g[name] @ right for g in truth])
            assert close(sum(use.sketch(left, right) for use in used), expected), name
    exact_NN = recorder.gram()
    errors = [(recorder.gram(sketch=size) - exact_NN).norm() / exact_NN.norm() for size in (4, 2048)]
    assert errors[1] < 0.1 < errors[0]


def test_scored_limits_scores_and_gram_but_not_the_gradient(model):
    tokens_NT, targets_NT = batch(4)
    chosen = {name for name, _ in model.named_parameters() if "norm" in name or "blocks" in name}
    truth = oracle.gradients_of_samples(model, tokens_NT, targets_NT)
    flat_NP = torch.stack([oracle.flat(g, chosen) for g in truth])

    recorder = GhostRecorder(model, scored=lambda name: name in chosen)
    record(recorder, model, tokens_NT, targets_NT)
    direction = recorder.direction()
    assert close(recorder.first_order(direction), flat_NP @ flat_NP.mean(dim=0))
    assert close(recorder.gram(), flat_NP @ flat_NP.T)
    recorder.add_gradient(range(4), scale=1.0)
    for name, parameter in model.named_parameters():
        assert close(parameter.grad, sum(g[name] for g in truth)), name


def test_recorded_losses_and_weights_are_those_of_a_plain_pass(model):
    """Recording changes no loss; a weight on a sample's loss is a weight on its gradient."""
    tokens_NT, targets_NT = batch(3)
    weight_N = torch.tensor([1.0, 0.0, 3.0], dtype=torch.float64)
    truth = oracle.gradients_of_samples(model, tokens_NT, targets_NT)
    with torch.no_grad():
        expected_N = model(tokens_NT, targets_NT)
    recorder = GhostRecorder(model)
    with recorder:
        losses_N = model(tokens_NT, targets_NT)
        (losses_N * weight_N).sum().backward()
    assert torch.equal(losses_N.detach(), expected_N)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    direction = recorder.direction(samples=1)
    for name, value in direction.blocks.items():
        assert close(value, truth[0][name] + 3 * truth[2][name]), name


def test_a_sample_without_targets_has_no_gradient():
    model = gpt2()
    tokens_NT, targets_NT = batch(3)
    targets_NT[1] = -1
    recorder = GhostRecorder(model)
    losses_N = record(recorder, model, tokens_NT, targets_NT)
    gram_NN = recorder.gram()
    assert losses_N[1] == 0
    assert (gram_NN[1] == 0).all()
    assert gram_NN[0, 0] > 0


def test_frozen_parameters_are_left_out():
    model = gpt2()
    model.blocks[0].requires_grad_(False)
    tokens_NT, targets_NT = batch(3)
    recorder = GhostRecorder(model)
    record(recorder, model, tokens_NT, targets_NT)
    assert not any(name.startswith("blocks.0") for name in recorder.direction().blocks)
    assert not any(p.requires_grad for p in model.blocks[0].parameters())


def test_uncovered_parameters_are_named():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))
            self.conv = nn.Conv1d(2, 2, 1)

    with pytest.raises(ValueError, match=r"no ghost rule covers scale, conv\.weight, conv\.bias"):
        GhostRecorder(Odd())


def test_a_parameter_used_behind_its_module_is_refused():
    class Sneaky(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)

        def forward(self, x):
            return nn.functional.linear(self.one(x), self.two.weight).sum(dim=1)

    model = Sneaky()
    with pytest.raises(ValueError, match=r"no gradient was recorded for two\.weight"), GhostRecorder(model):
        model(torch.randn(4, 3)).sum().backward()
    assert all(p.requires_grad for p in model.parameters())


def test_misuse_is_refused():
    model = gpt2()
    tokens_NT, targets_NT = batch(3)
    recorder = GhostRecorder(model)
    with pytest.raises(ValueError, match="nothing is recorded"):
        recorder.gram()
    with pytest.raises(ValueError, match="one forward pass at a time"), recorder:
        model(tokens_NT, targets_NT)
        model(tokens_NT, targets_NT)
    with pytest.raises(ValueError, match=r"no gradient was recorded for wte\.weight"), recorder:
        model(tokens_NT, targets_NT)


def test_a_pass_that_raises_leaves_the_model_as_it_was():
    model = gpt2()
    tokens_NT, targets_NT = batch(3)
    recorder = GhostRecorder(model)
    record(recorder, model, tokens_NT, targets_NT)
    low = recorder.direction(rank=2)
    with pytest.raises(RuntimeError, match="out of bounds"), recorder.along(low):
        model(tokens_NT, targets_NT + 1000)
    assert model.head.weight is model.wte.weight
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(ValueError, match="nothing is recorded"):
        recorder.gram()
