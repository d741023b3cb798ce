"""What became of one group of candidates in a step."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass
class Choice:
    """What became of one group of n candidates; a quantity that was not measured is None.

    measured [N]: positions among the n of those that went through the model; picked [k]: the picks among these, in the
    order of being picked, -1 for one that could not be made; order [k]: their places in that of the whole step, where
    all its groups competed. In the order of `measured`, all [N]: loss, first_order <g_i, v>, interaction (sum of
    <g_i, g_j> over the picks j other than i), self_norm |g_i|, and score, what the method ranked by. predicted [n] by a
    prefilter; by_prediction: it ranked all n by that.
    """

    measured: np.ndarray
    picked: Tensor
    loss: Tensor
    first_order: Tensor | None = None
    interaction: Tensor | None = None
    self_norm: Tensor | None = None
    predicted: np.ndarray | None = None
    score: Tensor | None = None
    by_prediction: bool = False
    order: Tensor | None = None

    @property
    def picks(self) -> Tensor:
        """[k], positions among the n in the order of being picked; -1 for one that could not be made."""
        measured = torch.as_tensor(self.measured).to(self.picked.device, non_blocking=True)
        return measured[self.picked].masked_fill(self.picked < 0, -1)

    def as_logged(self) -> dict:
        """What SelectionLog.append takes of it."""
        names = (
            "measured",
            "loss",
            "first_order",
            "interaction",
            "self_norm",
            "predicted",
            "score",
            "by_prediction",
            "order",
        )
        return {"picks": self.picks, **{name: getattr(self, name) for name in names}}


def interaction_of(gram_NN: Tensor | None, picks: Tensor) -> Tensor | None:
    """[N], the sum of <g_i, g_j> over the picks j other than i."""
    if gram_NN is None:
        return None
    # Only columns of picks: a candidate that is not finite must not reach the others by 0 * nan.
    none_k = picks < 0
    own_k = gram_NN.diagonal()[picks].masked_fill(none_k, 0)
    return gram_NN[:, picks].masked_fill(none_k, 0).sum(1).index_add_(0, picks.clamp(min=0), -own_k)
