"""Steps of one rank among many that are not there: collectives do nothing, and tensors have shapes and no numbers.

The code that runs is that of a real step. This file alone knows torch's private parts for it: the fake process group,
fake tensors, the memory tracker of FSDP2, and what sizes collectives have.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.distributed._tools import fake_collectives
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from model.world import World

aten = torch.ops.aten
COLLECTIVES = fake_collectives.collective_ops - fake_collectives.sync_ops

# What a collective, or a product, is for: by the innermost of these functions of ours that it happens in.
PURPOSES = {
    "_aim": "direction",
    "steer": "direction",
    "measure": "scores",
    "_record": "scores",
    "_look": "scores",
    "add_gradient": "picks' gradient",
    "train_on": "training",
    "clip_gradient": "clip",
    "send": "predictor",
}


@contextmanager
def fake_world(rank: int, size: int) -> Iterator[World]:
    """Rank `rank` of `size`; tensors made inside have no numbers."""
    assert not dist.is_initialized()
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=size)
    mesh = dist.device_mesh.init_device_mesh("cpu", (size,), mesh_dim_names=("shard",))
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield World(rank, size, torch.device("cpu"), mesh)
    finally:
        dist.destroy_process_group()


real_tensors = unset_fake_temporarily


def purpose_of(frame: FrameType | None) -> tuple[str, bool]:
    """(one of PURPOSES, or "other"; whether it is FSDP2 that asks)."""
    by_fsdp = False
    while frame is not None:
        by_fsdp |= "/distributed/fsdp/" in frame.f_code.co_filename
        if frame.f_code.co_name in PURPOSES:
            return PURPOSES[frame.f_code.co_name], by_fsdp
        frame = frame.f_back
    return "other", by_fsdp


def sent_bytes(function: Any, result: Any, arguments: tuple, named: dict) -> int:
    """What a rank of a ring sends for a collective: a sum goes round twice."""
    size = fake_collectives.CollectiveOp.get_comm_tensor_size(function, result, arguments, named)
    ranks = dist.get_world_size()
    rounds = 2 if "all_reduce" in str(function) or "allreduce" in str(function) else 1
    return rounds * size * (ranks - 1) // ranks


def floating_operations(function: Any, result: Any, arguments: tuple, named: dict) -> int:
    """Of a matrix product, or of attention."""
    if function is aten._scaled_dot_product_flash_attention_for_cpu.default:
        return sdpa_flop_count(*(x.shape for x in arguments[:3]))
    if function is aten._scaled_dot_product_flash_attention_for_cpu_backward.default:
        return sdpa_backward_flop_count(*(x.shape for x in arguments[:4]))
    count = flop_registry.get(function.overloadpacket)
    return count(*arguments, **named, out_val=result) if count else 0


class Counts(TorchDispatchMode):
    """Counts what happens inside it.

    calls, sent: collectives, and the bytes that this rank sends for them in a ring, by (purpose, whether FSDP2 asks).
    operations: floating ones, of products and attention, by purpose. reads: values that the host waits for; where there
    is none, it is told `answer`.
    """

    def __init__(self, answer: int = 0):
        super().__init__()
        self._answer = answer
        self.calls: Counter = Counter()
        self.sent: Counter = Counter()
        self.operations: Counter = Counter()
        self.reads = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if any(kind is DTensor for kind in types):
            return NotImplemented
        named = kwargs or {}
        if function is aten._local_scalar_dense.default:
            self.reads += 1
            if isinstance(args[0], FakeTensor):
                return True if args[0].dtype is torch.bool else self._answer
        result = function(*args, **named)
        if function in COLLECTIVES:
            purpose = purpose_of(sys._getframe(1))
            self.calls[purpose] += 1
            self.sent[purpose] += sent_bytes(function, result, args, named)
        elif operations := floating_operations(function, result, args, named):
            self.operations[purpose_of(sys._getframe(1))[0]] += operations
        return result


@contextmanager
def traced(model: nn.Module, optimizer: torch.optim.Optimizer, answer: int) -> Iterator["Trace"]:
    """Counts, and the most memory at once, of what happens inside."""
    tracker, trace = FSDPMemTracker(model, optimizer), Trace(answer)
    with tracker:
        # The tracker takes one pass; a step has several.
        hook = model.register_forward_pre_hook(lambda *_: tracker.reset_mod_stats(), prepend=True)
        with trace:
            yield trace
        hook.remove()
    (snapshot,) = tracker.get_tracker_snapshot("peak").values()
    trace.peak_bytes = snapshot["Total"]


class Trace(Counts):
    """peak_bytes: the most that tensors of this rank took at once, its shards and the optimizer's state among them."""

    peak_bytes = 0
