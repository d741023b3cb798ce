"""Small models, batches, and what a recorder sees of them."""

import dataclasses

import torch
from torch import nn

from model.gpt2 import GPT2, GPT2Config
from selection.ghost.recorder import GhostRecorder
from tests.helpers import oracle

RELATIVE = 1e-9
CONFIG = GPT2Config(vocab_size=23, n_layer=2, n_head=2, n_embd=12, sequence_length=9)


def close(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    """Equal to 1e-9 of the largest entry: inner products of unlike samples may cancel to almost nothing."""
    return bool((actual - expected).abs().max() <= RELATIVE * expected.abs().max())


def mean_loss(logits_NTV, targets_NT):
    loss_NT = nn.functional.cross_entropy(logits_NTV.transpose(1, 2), targets_NT, ignore_index=-1, reduction="none")
    return loss_NT.sum(dim=1) / (targets_NT != -1).sum(dim=1).clamp(min=1)


def gpt2(kind=GPT2, **changes):
    config = dataclasses.replace(CONFIG, **changes)
    model = kind(config).double()
    with torch.no_grad():
        for parameter in model.parameters():  # away from the initialisation's zeros and ones
            parameter.add_(0.1 * torch.randn(parameter.shape, dtype=torch.float64))
    return model


def batch(samples: int, length: int = 9, vocabulary: int = 23):
    """Tokens with repeats inside a sample, targets partly masked, one sample down to a single target."""
    tokens_NT = torch.randint(0, vocabulary, (samples, length))
    tokens_NT[0] = tokens_NT[0, 0]
    targets_NT = torch.randint(0, vocabulary, (samples, length))
    targets_NT[0, : length // 2] = -1
    targets_NT[-1, 1:] = -1
    return tokens_NT, targets_NT


def record(recorder: GhostRecorder, model: nn.Module, tokens_NT, targets_NT) -> torch.Tensor:
    with recorder:
        losses_N = model(tokens_NT, targets_NT)
        losses_N.sum().backward()
    return losses_N


def check_against_autograd(model: nn.Module, relative: float = RELATIVE) -> None:
    """Asserts that scores, gram and the gradient of two picks are those of plain autograd; the last to `relative`."""
    tokens_NT, targets_NT = batch(4)
    truth = oracle.gradients_of_samples(model, tokens_NT, targets_NT)
    flat_NP = torch.stack([oracle.flat(g) for g in truth])
    recorder = GhostRecorder(model)
    record(recorder, model, tokens_NT, targets_NT)
    direction = recorder.direction()
    assert close(recorder.first_order(direction), flat_NP @ flat_NP.mean(dim=0))
    assert close(recorder.gram(), flat_NP @ flat_NP.T)
    recorder.add_gradient([2, 0], scale=0.5)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            expected = 0.5 * (truth[2][name] + truth[0][name])
            assert (parameter.grad - expected).abs().max() <= relative * max(expected.abs().max(), 1e-6), name
