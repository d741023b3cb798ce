"""Runs a function on several gloo ranks, each a process of its own with one thread."""

import datetime
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from model.world import World
from scripts.train.ending import leave_process


def on_ranks(size: int, function, *arguments) -> list:
    """[function(world, *arguments) of rank 0, of rank 1, ...]; function and results must be picklable."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_rank, (size, folder, function, arguments), nprocs=size)
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
