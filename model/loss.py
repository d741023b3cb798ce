"""The output head fused with its cross-entropy, so that no [N, T, V] tensor ever exists.

Logits are made for a chunk of tokens, turned in place into their own gradient, multiplied into the gradients
of the hidden states and of the weight, and dropped: the work of the textbook version, without its memory.

N samples, T tokens a sample, M tokens of a chunk, V vocabulary, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Logits alive at once. A GPU wants few and large products, with a number of tokens that its tiles divide: 1 GiB in
# float32. A CPU wants them to stay in its caches, but not to read the weight again for every handful of tokens.
GPU_ELEMENTS, GPU_MULTIPLE = 1 << 28, 128
CPU_ELEMENTS, CPU_TOKENS = 1 << 22, 256

IGNORED = -1  # a target position that carries no loss


def token_scale(targets_NT: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight of every token's loss in its sample's mean, [N, T]: 1 / valid tokens, 0 where ignored."""
    valid_NT = targets_NT != IGNORED
    return valid_NT / valid_NT.sum(dim=1, keepdim=True, dtype=dtype).clamp(min=1)


def chunks(tokens: int, vocabulary: int, device: torch.device) -> list[slice]:
    """`tokens` in parts of about one length, each of as many as may have their logits alive at once on this device."""
    if device.type == "cpu":
        most, multiple = max(CPU_TOKENS, CPU_ELEMENTS // vocabulary), 1
    else:
        most, multiple = max(1, GPU_ELEMENTS // vocabulary), GPU_MULTIPLE
    parts = max(1, -(-tokens // most))
    size = max(1, -(-tokens // (parts * multiple))) * multiple
    return [slice(start, min(start + size, tokens)) for start in range(0, tokens, size)]


def logit_gradient(
    weight_VD: Tensor,
    hidden_MD: Tensor,
    targets_M: Tensor,
    scale_M: Tensor,
    normaliser_M: Tensor,
    vocabulary: int,
    start: int = 0,
) -> Tensor:
    """d(scaled cross-entropy)/d(logits) for the rows in `weight_VD`, the first of which is `start` of `vocabulary`; it
    is 0 for rows from there on.

    (softmax - one-hot) * scale, [M, V], in float32 (float64 where the hidden states are); `normaliser_M` is the
    log-sum-exp of each token's whole row of logits, so a slice of the vocabulary needs nothing of the rest.
    """
    logits_MV = _logits(hidden_MD, weight_VD, normaliser_M.dtype)
    softmax_MV = logits_MV.sub_(normaliser_M[:, None]).exp_().mul_(scale_M[:, None])
    _fill_from(softmax_MV, vocabulary - start, 0.0)
    column_M = targets_M - start
    inside_M = (column_M >= 0) & (column_M < softmax_MV.shape[1])
    column_M = column_M.clamp(0, softmax_MV.shape[1] - 1)
    return softmax_MV.scatter_add_(1, column_M[:, None], -(scale_M * inside_M)[:, None])


def _fill_from(logits_MV: Tensor, first: int, value: float) -> None:
    """In place, the columns of rows that stand for no token."""
    if first < logits_MV.shape[1]:
        logits_MV[:, max(first, 0) :] = value


def _logits(hidden_MD: Tensor, weight_VD: Tensor, wide: torch.dtype) -> Tensor:
    """[M, V] in the wide precision, in memory of its own."""
    if hidden_MD.dtype == wide or hidden_MD.device.type == "cpu":  # whose half products have no wide result
        return (hidden_MD @ weight_VD.T).to(wide)
    return torch.mm(hidden_MD, weight_VD.T, out_dtype=wide)


class _LinearCrossEntropy(torch.autograd.Function):
    """(hidden_NTD, weight_VD, targets_NT, rows of weight_VD that stand for tokens) -> (mean loss per sample [N],
    log-sum-exp per token [N, T])."""

    @staticmethod
    def forward(ctx, hidden_NTD: Tensor, weight_VD: Tensor, targets_NT: Tensor, vocabulary: int):
        N, T, D = hidden_NTD.shape
        V, device = weight_VD.shape[0], hidden_NTD.device
        wide = torch.promote_types(hidden_NTD.dtype, torch.float32)
        hidden_MD, target_M1 = hidden_NTD.reshape(N * T, D), targets_NT.reshape(N * T, 1).clamp(min=0)
        scale_NT = token_scale(targets_NT, wide)
        scale_M1 = scale_NT.view(N * T, 1)
        minus_M1 = torch.full_like(scale_M1, -1)
        target_logit_M1, highest_M, likeliest_M = (scale_M1.new_empty(N * T, *end) for end in ((1,), (), ()))
        needs_hidden, needs_weight, *_ = ctx.needs_input_grad
        grad_hidden_MD = torch.empty_like(hidden_MD) if needs_hidden else None
        grad_weight_VD = None

        for part in chunks(N * T, V, device):
            logits_MV = _logits(hidden_MD[part], weight_VD, wide)
            _fill_from(logits_MV, vocabulary, -torch.inf)
            torch.gather(logits_MV, 1, target_M1[part], out=target_logit_M1[part])
            torch.amax(logits_MV, 1, out=highest_M[part])
            softmax_MV = logits_MV.softmax(1)
            del logits_MV
            torch.amax(softmax_MV, 1, out=likeliest_M[part])
            if needs_hidden or needs_weight:
                difference_MV = softmax_MV.scatter_add_(1, target_M1[part], minus_M1[part])
                gradient_MV = _scaled(difference_MV, scale_M1[part], hidden_NTD.dtype)
            if needs_hidden:
                torch.mm(gradient_MV, weight_VD, out=grad_hidden_MD[part])
            if needs_weight:
                grad_weight_VD = _add_product(grad_weight_VD, gradient_MV.T, hidden_MD[part], wide)
            softmax_MV = difference_MV = gradient_MV = None  # before the next part's logits are made
        if needs_weight and grad_weight_VD is None:
            grad_weight_VD = torch.zeros_like(weight_VD, dtype=wide)

        # The likeliest token's probability is exp(its logit) / sum, and never so small that its logarithm is lost.
        normaliser_NT = (highest_M - likeliest_M.log()).view(N, T)
        losses_N = ((normaliser_NT - target_logit_M1.view(N, T)) * scale_NT).sum(dim=1)
        ctx.save_for_backward(hidden_NTD, weight_VD, targets_NT, normaliser_NT, grad_hidden_MD, grad_weight_VD)
        ctx.mark_non_differentiable(normaliser_NT)
        ctx.vocabulary = vocabulary
        return losses_N, normaliser_NT

    @staticmethod
    def backward(ctx, grad_losses_N: Tensor, _):
        hidden_NTD, weight_VD, targets_NT, normaliser_NT, grad_hidden_MD, grad_weight_VD = ctx.saved_tensors
        grad_hidden_NTD = None
        if grad_hidden_MD is not None:
            factor_N11 = grad_losses_N.to(hidden_NTD.dtype)[:, None, None]
            grad_hidden_NTD = grad_hidden_MD.view_as(hidden_NTD) * factor_N11
        if grad_weight_VD is not None:
            if grad_losses_N.stride(0) == 0 or len(grad_losses_N) < 2:
                # Training takes the plain mean, whose gradient is one number expanded: every sample has one weight, and
                # the sum made on the way serves. (Comparing the weights, the host would have to wait for them. A batch
                # of no sample has no weight: its sum is 0, as is the sum made on the way.)
                grad_weight_VD = (grad_weight_VD * grad_losses_N[:1].sum()).to(weight_VD.dtype)
            else:
                grad_weight_VD = _weighted_weight_gradient(
                    hidden_NTD, weight_VD, targets_NT, normaliser_NT, grad_losses_N, ctx.vocabulary
                )
        return grad_hidden_NTD, grad_weight_VD, None, None


def _weighted_weight_gradient(hidden_NTD, weight_VD, targets_NT, normaliser_NT, factor_N, vocabulary) -> Tensor:
    """sum_i factor_i * (gradient of sample i's loss in the weight), logits made again chunk by chunk."""
    N, T, D = hidden_NTD.shape
    hidden_MD, targets_M, normaliser_M = hidden_NTD.reshape(N * T, D), targets_NT.reshape(-1), normaliser_NT.view(-1)
    scale_M = (token_scale(targets_NT, normaliser_M.dtype) * factor_N[:, None]).reshape(N * T)
    total_VD = None
    for part in chunks(N * T, weight_VD.shape[0], hidden_NTD.device):
        of_tokens = targets_M[part], scale_M[part], normaliser_M[part]
        gradient_MV = logit_gradient(weight_VD, hidden_MD[part], *of_tokens, vocabulary)
        total_VD = _add_product(total_VD, gradient_MV.to(hidden_NTD.dtype).T, hidden_MD[part], normaliser_M.dtype)
    return total_VD.to(weight_VD.dtype)


def _scaled(difference_MV: Tensor, scale_M1: Tensor, dtype: torch.dtype) -> Tensor:
    """difference_MV * scale_M1 in `dtype`; may be in place."""
    if difference_MV.dtype == dtype:
        return difference_MV.mul_(scale_M1)
    return torch.mul(difference_MV, scale_M1, out=torch.empty_like(difference_MV, dtype=dtype))


def _add_product(total: Tensor | None, left: Tensor, right: Tensor, wide: torch.dtype) -> Tensor:
    """total + left @ right, in place where there is a total; a product in half precision is summed up in `wide`."""
    if total is None:
        return (left @ right).to(wide)
    return total.addmm_(left, right) if left.dtype == wide else total.add_(left @ right)


class OutputHead(nn.Linear):
    """hidden_NTD -> logits_NTV; with targets_NT -> (mean loss per sample [N], log-sum-exp per token [N, T]).

    A target of -1 is ignored; a sample with no valid target has loss 0 and no gradient. vocabulary: the first so many
    rows stand for tokens; those that follow, for the size's sake, have no logit, no probability and no gradient.
    """

    token_scale = staticmethod(token_scale)
    chunks = staticmethod(chunks)

    def __init__(self, n_embd: int, rows: int, vocabulary: int | None = None):
        super().__init__(n_embd, rows, bias=False)
        self.vocabulary = rows if vocabulary is None else vocabulary

    def logit_gradient(self, weight_vD: Tensor, *of_tokens: Tensor, start: int = 0) -> Tensor:
        """See logit_gradient of this file."""
        return logit_gradient(weight_vD, *of_tokens, self.vocabulary, start)

    def forward(self, hidden_NTD: Tensor, targets_NT: Tensor | None = None):
        if targets_NT is None:
            return F.linear(hidden_NTD, self.weight[: self.vocabulary])
        return _LinearCrossEntropy.apply(hidden_NTD, self.weight, targets_NT, self.vocabulary)
