"""One rule per layer type: from what a layer read and the gradient at its output to the uses of its parameters.

A rule is a function (module, inputs, further, gradient) -> {parameter's name in the module: Use}, where `gradient` is
that at the layer's output, the first if it has several, and `further` are the others.
N samples, T tokens a sample, D width.
"""

import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .factors import FusedHead, OuterProduct, PerSample, RowScatter, Use
from .products import wide_dtype

Uses = dict[str, Use]
Rule = Callable[[nn.Module, Sequence[Tensor], Sequence[Tensor], Tensor], Uses]


def rule_for(module: nn.Module) -> Rule | None:
    """The rule that covers the parameters which `module` itself holds; None where there is none."""
    if is_fused_head(module):
        return output_head
    # fully_shard swaps a module's class for a subclass of it. One with a forward of its own computes something else.
    kind = next(kind for kind in type(module).__mro__ if "forward" in vars(kind))
    return RULES.get(f"{kind.__module__}.{kind.__qualname__}")


def is_fused_head(module: nn.Module) -> bool:
    """Whether a module is an output head fused with its loss: see output_head."""
    return hasattr(module, "logit_gradient")


def linear(module: nn.Linear, inputs: Sequence[Tensor], further: Sequence[Tensor], gradient: Tensor) -> Uses:
    """y = x W^T + b: grad W = sum_t b_t x_t^T, grad b = sum_t b_t."""
    uses: Uses = {"weight": OuterProduct(_tokens(gradient), _tokens(inputs[0]))}
    if module.bias is not None:
        uses["bias"] = PerSample(_sum_tokens(gradient, kept=1))
    return uses


def output_head(module: nn.Module, inputs: Sequence[Tensor], further: Sequence[Tensor], gradient: Tensor) -> Uses:
    """A linear head that takes the targets and returns (losses_N, normaliser_NT): see model.loss.OutputHead.

    Such a module offers `logit_gradient`, `token_scale` and `chunks`, so that the gradient at its logits can be made
    again in pieces. Called without targets it is a plain linear layer.
    """
    if len(inputs) == 1:  # its last rows may stand for no token, and have no logit
        return linear(module, inputs, further, F.pad(gradient, (0, len(module.weight) - gradient.shape[-1])))
    hidden_NTD, targets_NT = inputs
    (normaliser_NT,) = further
    scale_NT = module.token_scale(targets_NT, normaliser_NT.dtype) * gradient[:, None]

    @functools.cache  # gathered from the shards once a pass
    def whole_weight() -> Tensor:
        weight = module.weight.detach()
        weight = weight.full_tensor() if hasattr(weight, "full_tensor") else weight
        return weight.to(hidden_NTD.dtype)

    tensors, rows = (hidden_NTD, targets_NT, scale_NT, normaliser_NT), module.weight.shape[0]
    return {"weight": FusedHead(whole_weight, module.logit_gradient, module.chunks, *tensors, rows)}


def embedding(module: nn.Embedding, inputs: Sequence[Tensor], further: Sequence[Tensor], gradient: Tensor) -> Uses:
    """y = E[index]: row index_t of grad E receives b_t; `padding_idx` receives nothing."""
    index = inputs[0].reshape(len(inputs[0]), -1).expand(len(gradient), -1)
    values_NTD = _tokens(gradient)
    if module.padding_idx is not None:
        values_NTD = values_NTD * (index != module.padding_idx)[..., None]
    return {"weight": RowScatter(index, values_NTD, module.num_embeddings)}


def scaled_embedding(
    module: nn.Embedding, inputs: Sequence[Tensor], further: Sequence[Tensor], gradient: Tensor
) -> Uses:
    """y = s E[index], as Gemma has it."""
    return embedding(module, inputs, further, gradient * module.embed_scale.to(gradient.dtype))


def layer_norm(module: nn.LayerNorm, inputs: Sequence[Tensor], further: Sequence[Tensor], gradient: Tensor) -> Uses:
    """y = w * xhat + b: grad w = sum_t b_t * xhat_t, grad b = sum_t b_t."""
    kept = len(module.normalized_shape)
    wide = wide_dtype(gradient.dtype)
    xhat = F.layer_norm(inputs[0].to(wide), module.normalized_shape, eps=module.eps)
    uses: Uses = {"weight": PerSample(_sum_tokens(gradient.to(wide) * xhat, kept))}
    if module.bias is not None:
        uses["bias"] = PerSample(_sum_tokens(gradient, kept))
    return uses


def rms_norm(module: nn.Module, inputs: Sequence[Tensor], further: Sequence[Tensor], gradient: Tensor) -> Uses:
    """y = w * x / sqrt(mean(x^2) + eps): grad w = sum_t b_t * xhat_t."""
    wide = wide_dtype(gradient.dtype)
    xhat = F.rms_norm(inputs[0].to(wide), module.normalized_shape, eps=module.eps)
    return {"weight": PerSample(_sum_tokens(gradient.to(wide) * xhat, kept=len(module.normalized_shape)))}


def llama_norm(module: nn.Module, inputs: Sequence[Tensor], further: Sequence[Tensor], gradient: Tensor) -> Uses:
    """RMSNorm as `transformers` computes it: xhat in float32 whatever the model's precision."""
    x = inputs[0].float()
    xhat = x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + module.variance_epsilon)
    gradient = gradient.to(wide_dtype(gradient.dtype))
    return {"weight": PerSample(_sum_tokens(gradient * xhat.to(inputs[0].dtype), kept=1))}


def gemma_norm(module: nn.Module, inputs: Sequence[Tensor], further: Sequence[Tensor], gradient: Tensor) -> Uses:
    """y = (1 + w) * xhat, xhat in float32 whatever the model's precision."""
    x = inputs[0].float()
    xhat = x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + module.eps)
    return {"weight": PerSample(_sum_tokens(gradient.to(wide_dtype(gradient.dtype)) * xhat, kept=1))}


def conv1d(module: nn.Module, inputs: Sequence[Tensor], further: Sequence[Tensor], gradient: Tensor) -> Uses:
    """y = x W + b, the linear layer of `transformers`' GPT-2: its weight is [in, out]."""
    return {
        "weight": OuterProduct(_tokens(inputs[0]), _tokens(gradient)),
        "bias": PerSample(_sum_tokens(gradient, kept=1)),
    }


def _of(layer: str, model: str) -> str:
    """The name of a model's own layer in `transformers`."""
    return f"transformers.models.{model.lower()}.modeling_{model.lower()}.{model}{layer}"


# By qualified name, so that a layer of a library that is not installed can have its rule.
RULES: dict[str, Rule] = {
    "torch.nn.modules.linear.Linear": linear,
    "torch.nn.modules.sparse.Embedding": embedding,
    "torch.nn.modules.normalization.LayerNorm": layer_norm,
    "torch.nn.modules.normalization.RMSNorm": rms_norm,
    "transformers.pytorch_utils.Conv1D": conv1d,
    **{_of("RMSNorm", name): llama_norm for name in ("Llama", "Mistral", "Qwen2", "Qwen3")},
    **{_of("RMSNorm", name): gemma_norm for name in ("Gemma", "Gemma2", "Gemma3")},
    **{_of("TextScaledWordEmbedding", name): scaled_embedding for name in ("Gemma", "Gemma2", "Gemma3")},
}


def _tokens(tensor: Tensor) -> Tensor:
    """[N, ..., D] as [N, T, D]; a layer without a token dimension has T = 1."""
    return tensor.reshape(tensor.shape[0], -1, tensor.shape[-1])


def _sum_tokens(tensor: Tensor, kept: int) -> Tensor:
    """Sum over all but the first and the last `kept` dimensions, in the wide precision."""
    between = tuple(range(1, tensor.dim() - kept))
    wide = wide_dtype(tensor.dtype)
    return tensor.sum(dim=between, dtype=wide) if between else tensor.to(wide)
