"""AdamW with decoupled parameter groups, the learning-rate schedule, and clipping by the global norm."""

import math

import torch
from torch import Tensor, nn


def build_adamw(model: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019) with GPT-3's betas; only matrices and embeddings decay."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95), eps=1e-8, fused=True)


def step_unless(optimizer: torch.optim.Optimizer, unfit: Tensor) -> None:
    """An optimizer step, which on the device changes nothing, no moment either, where the scalar `unfit` is not 0.

    The host need not know: a fused optimizer looks at `found_inf` itself, as for torch.amp.GradScaler.
    """
    optimizer.found_inf = unfit.float()
    optimizer.step()
    del optimizer.found_inf


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def learning_rate_at(step: int, steps: int, warmup_steps: int, highest: float, lowest: float) -> float:
    """Linear warmup over `warmup_steps`, then half a cosine from `highest` down to `lowest` at the last step."""
    if step < warmup_steps:
        return highest * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - 1 - warmup_steps)
    return lowest + 0.5 * (highest - lowest) * (1 + math.cos(math.pi * min(progress, 1.0)))


def clip_gradient(model: nn.Module, limit: float) -> torch.Tensor:
    """Scales the gradient to a global norm of at most `limit` (0: no limit); the norm before, a scalar tensor.

    The norm is over all parameters and all ranks: on shards the result is a DTensor, summed up here.
    """
    norm = nn.utils.clip_grad_norm_(model.parameters(), limit if limit > 0 else math.inf)
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm
