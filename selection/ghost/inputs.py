"""What a layer read, as it is kept for the moment when the gradient at its output is there."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class StartOfGraph(torch.autograd.Function):
    """Identity that lets gradients reach an output that no trainable parameter leads to."""

    @staticmethod
    def forward(ctx, output: Tensor, anchor: Tensor) -> Tensor:
        return output.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return gradient, None


class Saved(torch.autograd.Function):
    """A node that keeps tensors as a layer keeps what its backward needs: under checkpointing, until asked for them."""

    @staticmethod
    def forward(ctx, anchor: Tensor, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors)
        return anchor.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor):
        raise AssertionError("nothing is computed from it")


class HeldInputs:
    """What a layer read, held from its forward on."""

    def __init__(self, path: str, inputs: tuple):
        # Their memory and version are those of the layer's inputs.
        self._path, self._inputs = path, [x.detach() for x in inputs if isinstance(x, Tensor)]
        self._versions = [x._version for x in self._inputs]

    def take(self) -> Sequence[Tensor]:
        if self._versions != [x._version for x in self._inputs]:
            raise ValueError(f"the input of layer {self._path} was changed in place after it was used")
        return self._inputs


class SavedInputs:
    """What a layer read, as autograd has kept it, or has it recomputed; to be asked for once, in backward."""

    def __init__(self, node: Any):
        self._node = node

    def take(self) -> Sequence[Tensor]:
        node, self._node = self._node, None  # the graph is still there when its last layer is read
        return node.saved_tensors
