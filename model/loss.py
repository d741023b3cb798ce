"""The output head fused with its cross-entropy, so that no [N, T, V] tensor ever exists.

Logits are made for a chunk of tokens, turned in place into their own gradient, multiplied into the gradients
of the hidden states and of the weight, and dropped: the work of the textbook version, without its memory.

N samples, T tokens a sample, M tokens of a chunk, V vocabulary, D width.
"""

import torch
from torch import Tensor, nn

CHUNK_ELEMENTS = 1 << 22  # logits alive at once: 16 MiB in float32, which also suits a CPU's caches

IGNORED = -1  # a target position that carries no loss


def token_scale(targets_NT: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight of every token's loss in its sample's mean, [N, T]: 1 / valid tokens, 0 where ignored."""
    valid_NT = (targets_NT != IGNORED).to(dtype)
    return valid_NT / valid_NT.sum(dim=1, keepdim=True).clamp(min=1)


def logit_gradient(
    weight_VD: Tensor,
    hidden_MD: Tensor,
    targets_M: Tensor,
    scale_M: Tensor,
    normaliser_M: Tensor,
    start: int = 0,
) -> Tensor:
    """d(scaled cross-entropy)/d(logits) for the vocabulary rows in `weight_VD`, the first of which is `start`.

    (softmax - one-hot) * scale, [M, V], in float32 (float64 where the hidden states are); `normaliser_M` is the
    log-sum-exp of each token's whole row of logits, so a slice of the vocabulary needs nothing of the rest.
    """
    logits_MV = (hidden_MD @ weight_VD.T).to(normaliser_M.dtype)
    softmax_MV = logits_MV.sub_(normaliser_M[:, None]).exp_().mul_(scale_M[:, None])
    return _subtract_at_targets(softmax_MV, targets_M - start, scale_M)


def _subtract_at_targets(softmax_MV: Tensor, targets_M: Tensor, scale_M: Tensor) -> Tensor:
    """In place: takes scale_M off at each token's target, where that is among the columns."""
    inside_M = (targets_M >= 0) & (targets_M < softmax_MV.shape[1])
    column_M = targets_M.clamp(0, softmax_MV.shape[1] - 1)
    return softmax_MV.scatter_add_(1, column_M[:, None], -(scale_M * inside_M)[:, None])


class _LinearCrossEntropy(torch.autograd.Function):
    """(hidden_NTD, weight_VD, targets_NT) -> (mean loss per sample [N], log-sum-exp per token [N, T])."""

    @staticmethod
    def forward(ctx, hidden_NTD: Tensor, weight_VD: Tensor, targets_NT: Tensor):
        N, T, D = hidden_NTD.shape
        wide = torch.promote_types(hidden_NTD.dtype, torch.float32)
        hidden_MD, targets_M = hidden_NTD.reshape(N * T, D), targets_NT.reshape(N * T)
        scale_M = token_scale(targets_NT, wide).view(N * T)
        losses_M, normaliser_M = scale_M.new_empty(N * T), scale_M.new_empty(N * T)
        needs_hidden, needs_weight, _ = ctx.needs_input_grad
        grad_hidden_MD = torch.empty_like(hidden_MD) if needs_hidden else None
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=wide) if needs_weight else None

        for part in _chunks(N * T, weight_VD.shape[0]):
            logits_MV = (hidden_MD[part] @ weight_VD.T).to(wide)
            highest_M1 = logits_MV.amax(dim=1, keepdim=True)
            target_logit_M = logits_MV.gather(1, targets_M[part].clamp(min=0)[:, None]).squeeze(1)
            exponential_MV = logits_MV.sub_(highest_M1).exp_()
            sum_M1 = exponential_MV.sum(dim=1, keepdim=True)
            normaliser_M[part] = (highest_M1 + sum_M1.log()).squeeze(1)
            losses_M[part] = (normaliser_M[part] - target_logit_M) * scale_M[part]
            if needs_hidden or needs_weight:
                softmax_MV = exponential_MV.mul_(scale_M[part][:, None] / sum_M1)
                gradient_MV = _subtract_at_targets(softmax_MV, targets_M[part], scale_M[part])
                gradient_MV = gradient_MV.to(hidden_NTD.dtype)
            if needs_hidden:
                grad_hidden_MD[part] = gradient_MV @ weight_VD
            if needs_weight:
                _add_product(grad_weight_VD, gradient_MV.T, hidden_MD[part])

        ctx.save_for_backward(hidden_NTD, weight_VD, targets_NT, normaliser_M, grad_hidden_MD, grad_weight_VD)
        normaliser_NT = normaliser_M.view(N, T)
        ctx.mark_non_differentiable(normaliser_NT)
        return losses_M.view(N, T).sum(dim=1), normaliser_NT

    @staticmethod
    def backward(ctx, grad_losses_N: Tensor, _):
        hidden_NTD, weight_VD, targets_NT, normaliser_M, grad_hidden_MD, grad_weight_VD = ctx.saved_tensors
        grad_hidden_NTD = None
        if grad_hidden_MD is not None:
            factor_N11 = grad_losses_N.to(hidden_NTD.dtype)[:, None, None]
            grad_hidden_NTD = grad_hidden_MD.view_as(hidden_NTD) * factor_N11
        if grad_weight_VD is not None:
            # One number expanded, as a sum's gradient is, needs no comparison, for which the host would have to wait.
            if grad_losses_N.stride(0) == 0 or bool((grad_losses_N == grad_losses_N[:1]).all()):
                # Training takes the plain mean: every sample has one weight, and the sum made on the way serves.
                # A batch of no sample has no weight either: its sum is 0, as is the sum made on the way.
                grad_weight_VD = (grad_weight_VD * grad_losses_N[:1].sum()).to(weight_VD.dtype)
            else:
                grad_weight_VD = _weighted_weight_gradient(
                    hidden_NTD, weight_VD, targets_NT, normaliser_M, grad_losses_N
                )
        return grad_hidden_NTD, grad_weight_VD, None


def _weighted_weight_gradient(hidden_NTD, weight_VD, targets_NT, normaliser_M, factor_N) -> Tensor:
    """sum_i factor_i * (gradient of sample i's loss in the weight), logits made again chunk by chunk."""
    N, T, D = hidden_NTD.shape
    hidden_MD, targets_M = hidden_NTD.reshape(N * T, D), targets_NT.reshape(N * T)
    scale_M = (token_scale(targets_NT, normaliser_M.dtype) * factor_N[:, None]).reshape(N * T)
    total_VD = torch.zeros_like(weight_VD, dtype=normaliser_M.dtype)
    for part in _chunks(N * T, weight_VD.shape[0]):
        gradient_MV = logit_gradient(weight_VD, hidden_MD[part], targets_M[part], scale_M[part], normaliser_M[part])
        _add_product(total_VD, gradient_MV.to(hidden_NTD.dtype).T, hidden_MD[part])
    return total_VD.to(weight_VD.dtype)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right; a product in half precision is summed over chunks in float32."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total.add_(left @ right)


def _chunks(tokens: int, vocabulary: int) -> list[slice]:
    size = max(1, CHUNK_ELEMENTS // vocabulary)
    return [slice(start, min(start + size, tokens)) for start in range(0, tokens, size)]


class OutputHead(nn.Linear):
    """hidden_NTD -> logits_NTV; with targets_NT -> (mean loss per sample [N], log-sum-exp per token [N, T]).

    A target of -1 is ignored; a sample with no valid target has loss 0 and no gradient.
    """

    logit_gradient = staticmethod(logit_gradient)
    token_scale = staticmethod(token_scale)

    def __init__(self, n_embd: int, vocab_size: int):
        super().__init__(n_embd, vocab_size, bias=False)

    def forward(self, hidden_NTD: Tensor, targets_NT: Tensor | None = None):
        if targets_NT is None:
            return super().forward(hidden_NTD)
        return _LinearCrossEntropy.apply(hidden_NTD, self.weight, targets_NT)
