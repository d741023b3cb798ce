"""The direction that AdamW's step makes of v."""

import torch

from .exact import Direction


def adam_preconditioned(direction: Direction, optimizer: torch.optim.Optimizer, parameters: dict) -> Direction:
    """v / (sqrt(second moment) + eps), by parameter: what a step of AdamW along g_i changes the loss by is <g_i, P v>.

    The second moment is the optimizer's, bias-corrected, as of its last step (before the first step v is returned
    as it is). Exact for the first-order term; a gram stays one of raw gradients. `parameters`: name -> parameter.
    """
    blocks = {}
    for name, block in direction.blocks.items():
        state = optimizer.state.get(parameters[name])
        if not state:
            return direction
        group = next(g for g in optimizer.param_groups if any(p is parameters[name] for p in g["params"]))
        correction = 1 - group["betas"][1] ** float(state["step"])
        blocks[name] = block / ((state["exp_avg_sq"] / correction).sqrt_() + group["eps"])
    return Direction(blocks)
