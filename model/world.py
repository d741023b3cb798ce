"""Where a run computes: the device and backend, the process group, the mesh.

This is the one place that knows a GPU from a CPU.
"""

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh


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


def sum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over all ranks, in place."""
    dist.all_reduce(tensor)
    return tensor
