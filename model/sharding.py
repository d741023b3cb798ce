"""Where a run computes: the device and backend, the process group, the mesh, FSDP2 and mixed precision.

This is the one place that knows a GPU from a CPU.
"""

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from model.gpt2 import GPT2, GPT2Config

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


@dataclass(frozen=True)
class World:
    """This process among the others of the run."""

    rank: int
    size: int
    device: torch.device
    mesh: DeviceMesh

    @classmethod
    def join(cls, timeout: timedelta = timedelta(minutes=10)) -> "World":
        """Joins torchrun's process group, or makes one of a single process where torchrun did not start us."""
        cuda = torch.cuda.is_available()
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
        if cuda:
            torch.cuda.set_device(device)
        # NCCL for tensors on the device, gloo for objects and for checkpoints' bookkeeping on the host.
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        if "RANK" in os.environ:
            dist.init_process_group(backend, timeout=timeout)
        else:
            dist.init_process_group(backend, timeout=timeout, store=dist.HashStore(), rank=0, world_size=1)
        mesh = init_device_mesh(device.type, (dist.get_world_size(),), mesh_dim_names=("shard",))
        return cls(dist.get_rank(), dist.get_world_size(), device, mesh)

    @property
    def leads(self) -> bool:
        """Whether this rank writes what is written once, and prints."""
        return self.rank == 0

    def leave(self) -> None:
        dist.destroy_process_group()


def build_gpt2(config: GPT2Config, mesh: DeviceMesh, dtype: str, seed: int) -> GPT2:
    """A sharded GPT-2, initialised as a function of (config, seed) alone, at any number of ranks.

    Parameters are kept in float32 (float64 for dtype "float64"); the passes compute in `dtype`, and gradients
    are reduced in the parameters' own precision.
    """
    with torch.device("meta"):
        model = GPT2(config)
    if dtype == "float64":
        model.double()
    model = shard(model, mesh, DTYPES[dtype])
    model.to_empty(device=mesh.device_type)
    model.tie()
    model.initialise(seed)
    return model


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


def sum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over all ranks, in place."""
    dist.all_reduce(tensor)
    return tensor
