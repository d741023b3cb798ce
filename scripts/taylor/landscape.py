"""Losses of a GPT-2 as a function of all its weights in one vector, with gradients and second derivatives along a line.

P weights, N samples, T tokens.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from model.gpt2 import GPT2

Batch = tuple[Tensor, Tensor]  # inputs, targets, each [N, T]; a target of -1 is ignored


class Landscape:
    """Of one model, whose own weights play no part."""

    def __init__(self, model: GPT2):
        self._model = model
        parameters = dict(model.named_parameters())
        self.names = list(parameters)
        self._shapes = [parameter.shape for parameter in parameters.values()]
        self._sizes = [parameter.numel() for parameter in parameters.values()]

    def flat(self, tensors: dict[str, Tensor]) -> Tensor:
        """[P] of tensors laid out like the parameters, by name."""
        return torch.cat([tensors[name].detach().flatten() for name in self.names])

    def _weights(self, weights_P: Tensor) -> dict[str, Tensor]:
        parts = weights_P.split(self._sizes)
        return {name: part.view(shape) for name, part, shape in zip(self.names, parts, self._shapes, strict=True)}

    @torch.no_grad()
    def losses(self, weights_P: Tensor, batch: Batch) -> Tensor:
        """The mean token loss of every sample, [N] in float64."""
        return functional_call(self._model, self._weights(weights_P), batch).double()

    def loss(self, weights_P: Tensor, batch: Batch) -> float:
        """The mean over the samples."""
        return self.losses(weights_P, batch).mean().item()

    def gradient(self, weights_P: Tensor, batch: Batch) -> Tensor:
        """[P] of the mean loss."""
        weights_P = weights_P.detach().requires_grad_()
        functional_call(self._model, self._weights(weights_P), batch).mean().backward()
        return weights_P.grad

    def curvature(self, weights_P: Tensor, along_P: Tensor, batch: Batch) -> float:
        """d^T H d of the mean loss, with d = along_P: an exact Hessian-vector product, by a second backward pass."""
        inputs_NT, targets_NT = batch
        weights_P = weights_P.detach().requires_grad_()
        with sdpa_kernel(SDPBackend.MATH):  # the other kernels, and the fused head, cannot be differentiated twice
            logits_NTV = functional_call(self._model, self._weights(weights_P), (inputs_NT,))
            flat = logits_NTV.flatten(0, 1), targets_NT.flatten()  # a strided vocabulary would take three times as long
            loss_NT = F.cross_entropy(*flat, ignore_index=-1, reduction="none").view_as(targets_NT)
            loss = (loss_NT.sum(1) / (targets_NT != -1).sum(1).clamp(min=1)).mean()
            (gradient_P,) = torch.autograd.grad(loss, weights_P, create_graph=True)
            (product_P,) = torch.autograd.grad(gradient_P @ along_P, weights_P)
        return (product_P.double() @ along_P.double()).item()
