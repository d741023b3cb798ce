"""What AdamW's moments make of a direction, or offer as one."""

import torch
from torch import Tensor

from .exact import Direction


def adam_preconditioned(direction: Direction, optimizer: torch.optim.Optimizer, parameters: dict) -> Direction:
    """v / (sqrt(second moment) + eps), by parameter: what a step of AdamW along g_i changes the loss by is <g_i, P v>.

    The second moment is the optimizer's, bias-corrected, as of its last step (before the first step v is returned
    as it is). Exact for the first-order term; a gram stays one of raw gradients. `parameters`: name -> parameter.
    """
    divisors = adam_divisors(optimizer, {name: parameters[name] for name in direction.blocks})
    return direction if divisors is None else direction.divided(divisors)


def adam_divisors(optimizer: torch.optim.Optimizer, parameters: dict) -> Direction | None:
    """sqrt(second moment) + eps by parameter, bias-corrected, as of the last step; None before the first."""
    divisors = {}
    for name, parameter in parameters.items():
        state, group = _state(optimizer, parameter)
        if not state:
            return None
        correction = _correction(group["betas"][1], state["step"])
        divisors[name] = (state["exp_avg_sq"] / correction).sqrt_() + group["eps"]
    return Direction(divisors)


def adam_momentum(optimizer: torch.optim.Optimizer, parameters: dict) -> Direction:
    """AdamW's first moment, bias-corrected: a running mean of the gradients it was given; zeros at first."""
    moments = {}
    for name, parameter in parameters.items():
        state, group = _state(optimizer, parameter)
        if state:
            moments[name] = state["exp_avg"] / _correction(group["betas"][0], state["step"])
        else:
            moments[name] = torch.zeros_like(parameter.detach())
    return Direction(moments)


def _correction(beta: float, step: Tensor) -> Tensor:
    """1 - beta^step, a scalar on the device that counts the steps; before the first one hardly above 0."""
    return (1 - beta ** step.double()).clamp(min=1e-12)


def _state(optimizer: torch.optim.Optimizer, parameter: Tensor) -> tuple[dict, dict]:
    """The optimizer's state of a parameter, empty before its first step, and the group that it is in."""
    group = next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))
    return optimizer.state.get(parameter, {}), group
