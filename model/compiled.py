"""Blocks that run compiled, but where a recorder listens."""

import os
import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def compile_blocks(model: nn.Module) -> None:
    """Has every one of `model.blocks` compiled when it first runs. ValueError where there is no C++ compiler."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise ValueError(
            f"train.compile needs a C++ compiler, and there is no {compiler}: install one, or leave it out"
        )
    for block in model.blocks:
        block.forward = _compiled_unless_recorded(block, block.forward)


def _compiled_unless_recorded(block: nn.Module, eager: Callable) -> Callable:
    """A recorder hooks into the layers of a block, which compiled ones leave out. It freezes the parameters: a pass
    that wants gradients of none of them runs as it is written."""
    compiled = torch.compile(eager)

    def forward(*inputs: Any, **further: Any) -> Any:
        recorded = torch.is_grad_enabled() and not any(p.requires_grad for p in block.parameters())
        return (eager if recorded else compiled)(*inputs, **further)

    return forward
