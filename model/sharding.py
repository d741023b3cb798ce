"""How a model is laid out over the ranks: FSDP2 and mixed precision."""

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from .gpt2 import GPT2

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


def shard(model: GPT2, mesh: DeviceMesh, compute_dtype: torch.dtype) -> GPT2:
    """fully_shard on every block and on the root, which holds both uses of the tied weight in one group."""
    kept_dtype = next(model.parameters()).dtype
    policy = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=kept_dtype)
    for block in model.blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    # The root's parameters are used first and last in a step: keep them whole in between.
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    for module in (model, *model.blocks):
        module.set_gradient_divide_factor(1.0)  # a sum over ranks: losses carry their own 1 / (G k)
        module.set_force_sum_reduction_for_comms(True)  # a sum multiplied by 1.0, its default, is unknown to gloo
    return model
