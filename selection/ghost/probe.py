"""How a fused head measures left_it^T U on the way: the columns U ride along as further columns of its weight.

Logits are h W^T and the gradient of the hidden state is b W, with b the gradient at the logits. With [h, 0] for h and
[W, U] for W the logits stay what they are, and the gradient of the hidden state is [b W, b U].
N samples, T tokens, D width, V vocabulary, r rank.
"""

import torch
from torch import Tensor, nn

from ..direction.low_rank import LowRank


class Probe:
    """Of one head for one pass: `widen` before its forward, `restore` after it, `left_NTr` once backward is through."""

    def __init__(self, block: LowRank, head: nn.Module):
        self.block, self._head = block, head
        self.left_NTr: Tensor | None = None

    def widen(self, hidden_NTD: Tensor, targets_NT: Tensor) -> tuple[Tensor, Tensor]:
        """The head's inputs for a weight with the probe's columns, which the head has from now on."""
        columns_Vr = self.block.left_or.to(hidden_NTD)
        self._weight = self._head.weight
        wide_VE = torch.cat([self._weight.detach().to(hidden_NTD.dtype), columns_Vr], dim=1)
        self._head.weight = nn.Parameter(wide_VE, requires_grad=False)
        zeros_NTr = hidden_NTD.new_zeros(*hidden_NTD.shape[:2], columns_Vr.shape[1])
        wide_NTE = torch.cat([hidden_NTD, zeros_NTr], dim=2)
        wide_NTE.register_hook(self._receive)
        return wide_NTE, targets_NT

    def restore(self, wide_NTE: Tensor, targets_NT: Tensor) -> tuple[Tensor, Tensor]:
        """Gives the head its weight back; its inputs as they were."""
        self.restore_weight()
        return wide_NTE[..., : self._weight.shape[1]].detach(), targets_NT

    def restore_weight(self) -> None:
        self._head.weight = self._weight

    def _receive(self, gradient_NTE: Tensor) -> None:
        self.left_NTr = gradient_NTE[..., self._weight.shape[1] :]
