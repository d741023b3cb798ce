"""The slow truth: plain autograd, one sample at a time."""

import torch
from torch import Tensor, nn


def gradients_of_samples(model: nn.Module, tokens_NT: Tensor, targets_NT: Tensor) -> list[dict[str, Tensor]]:
    """The gradient of every sample's own loss, by parameter name."""
    gradients = []
    for tokens_T, targets_T in zip(tokens_NT, targets_NT, strict=True):
        model.zero_grad(set_to_none=True)
        model(tokens_T[None], targets_T[None]).sum().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad})
    model.zero_grad(set_to_none=True)
    return gradients


def flat(gradient: dict[str, Tensor], names=None) -> Tensor:
    return torch.cat([value.flatten() for name, value in gradient.items() if names is None or name in names])


def mean(gradients: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: sum(g[name] for g in gradients) / len(gradients) for name in gradients[0]}
