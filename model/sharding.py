"""How a model is laid out over the ranks: FSDP2, over one dimension or, with replicas, over two; mixed precision."""

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


def shard(model: nn.Module, mesh: DeviceMesh, compute_dtype: torch.dtype) -> nn.Module:
    """fully_shard on every one of `model.blocks` and on the root, which holds both uses of a tied weight in one group.

    Frozen parameters keep their own dtype in the shards; the passes see all in `compute_dtype`.
    """
    kept_dtype = next(p.dtype for p in model.parameters() if p.requires_grad)
    policy = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=kept_dtype)
    for block in model.blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    # The root's parameters are used first and last in a step: keep them whole in between.
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    for module in (model, *model.blocks):
        module.set_gradient_divide_factor(1.0)  # a sum over ranks: losses carry their own 1 / (G k)
        module.set_force_sum_reduction_for_comms(True)  # a sum multiplied by 1.0, its default, is unknown to gloo
    return model


def fits_whole(model: nn.Module, compute_dtype: torch.dtype, memory: int) -> bool:
    """Whether all parameters, as the passes see them, and all gradients take at most an eighth of so many bytes.

    Then a rank may have them whole for a step, so that they travel once in it.
    """
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return 8 * (trained + sum(p.numel() for p in model.parameters()) * compute_dtype.itemsize) <= memory
