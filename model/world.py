"""Where a run computes: the device and backend, the process group, the mesh.

This is the one place that knows a GPU from a CPU.
"""

import json
import os
import sys
import time
import uuid
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
    def join(
        cls,
        device: str = "auto",
        timeout: timedelta = timedelta(minutes=10),
        replicas: int = 1,
        deterministic: bool = False,
    ) -> "World":
        """Joins torchrun's process group, or makes one of a single process where torchrun did not start us.

        device: "cpu", "cuda", or "auto" for GPUs where every rank has one of its own. timeout: of whatever the ranks
        wait for each other. replicas: how many times the model is there; each is sharded over ranks that follow one
        another, as those of a machine do. deterministic: a GPU makes every sum in one order. ValueError where there are
        too few GPUs for "cuda", where the machines of a run differ, and for `deterministic` on a CPU.
        """
        device, why = choose_device(device)
        if deterministic:
            make_deterministic(device)
        store, rank, size = dist.HashStore(), 0, 1
        if "RANK" in os.environ:
            store, rank, size = next(dist.rendezvous("env://", timeout=timeout))
            store, devices = meet(store, rank, size, timeout, device)
            refuse_mixed(devices)
        if why and rank == 0:
            print(why, file=sys.stderr, flush=True)
        cuda = device == "cuda"
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
        if cuda:
            torch.cuda.set_device(device)
        # NCCL for tensors on the device, gloo for objects and for checkpoints' bookkeeping on the host.
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        # Of gloo's, two ranks connect when they first have something for each other: not all with all, at the start.
        os.environ.setdefault("TORCH_GLOO_LAZY_INIT", "1")
        # With its device NCCL connects now, rather than in the first collective of a pass.
        parts = {"store": store, "rank": rank, "world_size": size, "device_id": device if cuda else None}
        dist.init_process_group(backend, timeout=timeout, **parts)
        return cls(dist.get_rank(), dist.get_world_size(), device, make_mesh(device.type, size, replicas))

    @property
    def leads(self) -> bool:
        """Whether this rank writes what is written once, and prints."""
        return self.rank == 0

    @property
    def memory(self) -> int:
        """Bytes that a rank's device has, or its share of the machine's: the least of all ranks, which all ask."""
        if self.device.type == "cuda":
            size = torch.cuda.get_device_properties(self.device).total_memory
        else:
            machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
            size = machine // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        if self.size == 1:
            return size
        least = torch.tensor(size, device=self.device)
        dist.all_reduce(least, op=dist.ReduceOp.MIN)
        return int(least)

    def sent(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of the host on this rank's device; the host does not wait for it to arrive there."""
        return (tensor.pin_memory() if self.device.type == "cuda" else tensor).to(self.device, non_blocking=True)

    def leave(self) -> None:
        dist.destroy_process_group()


def make_mesh(device: str, size: int, replicas: int = 1) -> DeviceMesh:
    """All ranks in one dimension, "shard"; with replicas, which divide them evenly, "replicate" before it."""
    if replicas == 1:
        return init_device_mesh(device, (size,), mesh_dim_names=("shard",))
    return init_device_mesh(device, (replicas, size // replicas), mesh_dim_names=("replicate", "shard"))


def choose_device(asked: str) -> tuple[str, str]:
    """("cpu" or "cuda", why it is the CPU where there are GPUs, but too few), as this machine has them."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    # Where torchrun does not say how many are on this machine, all are taken to be.
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", 1)))
    if asked == "cpu" or (asked == "auto" and gpus == 0):
        return "cpu", ""
    if gpus >= ranks:
        return "cuda", ""
    found = f"this machine has {gpus or 'no'} GPU{'s' * (gpus != 1)} for {ranks} rank{'s' * (ranks != 1)}"
    if asked == "cuda":
        raise ValueError(f"{found}: train.device cuda needs one for each; start fewer ranks, or choose auto or cpu")
    return "cpu", f"computing on the CPU: {found}; with one for each, it would compute on them"


def make_deterministic(device: str) -> None:
    """Has CUDA make every sum in one order. ValueError for a CPU."""
    if device == "cpu":
        raise ValueError("train.deterministic does nothing on the CPU, where sums have one order anyway: leave it out")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS begins, before the first product
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads what it did not write


def refuse_mixed(devices: list[str]) -> None:
    """ValueError where the ranks, in order, do not compute on the same kind of device."""
    if len(set(devices)) > 1:
        raise ValueError(
            f"rank {devices.index('cuda')} has a GPU of its own and rank {devices.index('cpu')} has none: all ranks "
            "compute on the same kind of device; start fewer ranks a machine, or choose train.device cpu"
        )


def meet(store: dist.Store, rank: int, size: int, timeout: timedelta, word: str) -> tuple[dist.Store, list[str]]:
    """(a store that only these processes use, the word of every rank), once all ranks are there and know it.

    torchrun's is one for all attempts of a run: after a restart a rank would find the address of a dead one there and
    wait for it. So rank 0 opens a room of a new name, and a rank is in when the list of who came has its own new name.
    """
    name, deadline = uuid.uuid4().hex, time.monotonic() + timeout.total_seconds()
    if rank == 0:
        store.set("room", name)
        others = [json.loads(store.get(f"{name}/{other}")) for other in range(1, size)]
        store.set(f"{name}/all", json.dumps([[name, word], *others]))
    while time.monotonic() < deadline:
        room = store.get("room").decode()
        store.set(f"{room}/{rank}", json.dumps([name, word]))
        came = json.loads(store.get(f"{room}/all")) if store.check([f"{room}/all"]) else []
        if [name, word] in came:
            # The store may live in rank 0, which an error may end next: not before the others have read what they need.
            if rank == 0:
                store.wait([f"{name}/{other}/in" for other in range(1, size)])
            else:
                store.set(f"{room}/{rank}/in", "")
            return dist.PrefixStore(room, store), [word for _, word in came]
        time.sleep(0.05)  # not all are there; or the room is of an attempt before, and rank 0 has not opened its own
    raise TimeoutError(f"rank {rank} of {size} waited {timeout} for the others")


def sum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over all ranks, in place."""
    dist.all_reduce(tensor)
    return tensor
