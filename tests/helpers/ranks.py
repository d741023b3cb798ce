"""Runs a function on several gloo ranks, each a process of its own with one thread; counts what travels."""

import datetime
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from model.world import World
from scripts.train.ending import leave_process


def on_ranks(size: int, function, *arguments) -> list:
    """[function(world, *arguments) of rank 0, of rank 1, ...]; function and results must be picklable."""
    with tempfile.TemporaryDirectory() as folder:
        # Copies of one process that has loaded torch.
        multiprocessing.get_context("forkserver").set_forkserver_preload([__name__])
        parts = {"args": (size, folder, function, arguments), "nprocs": size, "start_method": "forkserver"}
        multiprocessing.start_processes(_rank, **parts)
        return [torch.load(Path(folder) / f"result-{rank}", weights_only=False) for rank in range(size)]


def _rank(rank: int, size: int, folder: str, function, arguments) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=datetime.timedelta(seconds=60))
    mesh = dist.device_mesh.init_device_mesh("cpu", (size,), mesh_dim_names=("shard",))
    try:
        result = function(World(rank, size, torch.device("cpu"), mesh), *arguments)
        torch.save(result, f"{folder}/result-{rank}")
    finally:
        dist.destroy_process_group()
    leave_process(0)


NOT_SENT = ("wait_tensor", "wrap_tensor")  # operations of the same libraries that send nothing


class Travels(TorchDispatchMode):
    """The collectives made meanwhile: `made`, a (name, bytes of the largest tensor) for each."""

    def __init__(self):
        super().__init__()
        self.made: list[tuple[str, int]] = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # what it does with plain tensors comes by
        if function.namespace in ("c10d", "_c10d_functional") and not any(part in function.name() for part in NOT_SENT):
            tensors = [t for t in torch.utils._pytree.tree_leaves(arguments) if isinstance(t, torch.Tensor)]
            name = function.name().partition("::")[2].partition(".")[0]
            self.made.append((name, max(t.numel() * t.element_size() for t in tensors)))
        return function(*arguments, **(options or {}))

    def count(self, part: str = "") -> int:
        """Those whose names contain `part`."""
        return sum(part in name for name, _ in self.made)

    def bytes(self) -> int:
        return sum(size for _, size in self.made)
