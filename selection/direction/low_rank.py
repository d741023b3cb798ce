"""The low-rank form of a direction's matrices, and how it is found where they are sharded.

o and i are the two dimensions of a weight, r the rank.
"""

import functools
import hashlib
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from .buckets import gathered

POWER_ITERATIONS = 2  # of the range finder; a third changed no score in the third digit


@dataclass(frozen=True)
class LowRank:
    """A weight's block as a product: left_or @ right_ir.T, the same on every rank."""

    left_or: Tensor
    right_ir: Tensor

    def whole(self) -> Tensor:
        return self.left_or @ self.right_ir.T


@functools.cache
def seeded_normal(name: str, rows: int, columns: int, device: torch.device) -> Tensor:
    """Standard normal numbers [rows, columns], a function of name and shape: the same on every rank, and made once."""
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big"))
    return torch.randn(rows, columns, generator=generator).to(device, non_blocking=True)


def find_ranges(blocks: dict[str, Tensor], rank: int) -> dict[str, LowRank]:
    """Randomized range finder with power iteration (Halko, Martinsson & Tropp 2011, algorithms 4.3 and 4.4).

    With M in row shards M_k, M^T Y = sum_k M_k^T Y_k is one small sum over the ranks, and M Q is made row by row
    where the rows are. All matrices share each sum, and only factors travel: (2 i + o) r numbers a matrix.
    """
    if not blocks:
        return {}
    local = {name: _local(block) for name, block in blocks.items()}
    start = {
        name: _local(_laid_out_like(block, seeded_normal("start", len(block), rank, block.device)))
        for name, block in blocks.items()
    }
    basis = {name: rows.T @ start[name].to(rows) for name, rows in local.items()}
    for iteration in range(1, POWER_ITERATIONS + 1):
        basis = _orthonormal(_summed(basis, next(iter(blocks.values()))))
        if iteration < POWER_ITERATIONS:
            basis = {name: rows.T @ (rows @ basis[name]) for name, rows in local.items()}
    left = gathered({name: _rows_of(block, local[name] @ basis[name]) for name, block in blocks.items()})
    return {name: LowRank(left[name], basis[name]) for name in blocks}


def _orthonormal(parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """An orthonormal basis of every part's columns; parts of one shape in one call."""
    shapes: dict[torch.Size, list[str]] = {}
    for name, part in parts.items():
        shapes.setdefault(part.shape, []).append(name)
    found = {}
    for names in shapes.values():
        found |= zip(names, torch.linalg.qr(torch.stack([parts[name] for name in names])).Q, strict=True)
    return found


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _laid_out_like(block: Tensor, tensor: Tensor) -> Tensor:
    """A tensor that every rank holds whole, sharded by rows as `block` is; nothing is sent."""
    if not hasattr(block, "placements"):
        return tensor
    return distribute_tensor(tensor, block.device_mesh, block.placements, src_data_rank=None)


def _summed(parts: dict[str, Tensor], block: Tensor) -> dict[str, Tensor]:
    """The parts summed over the ranks among which `block` is sharded, in one collective."""
    if not hasattr(block, "placements"):
        return parts
    (sharded,) = (dimension for dimension, p in enumerate(block.placements) if p.is_shard())
    flat = torch.cat([part.flatten() for part in parts.values()])
    dist.all_reduce(flat, group=block.device_mesh.get_group(sharded))
    pieces = flat.split([part.numel() for part in parts.values()])
    return {name: piece.view_as(parts[name]) for name, piece in zip(parts, pieces, strict=True)}


def _rows_of(block: Tensor, rows: Tensor) -> Tensor:
    """This rank's rows, [o of its shard, r], sharded as `block` is."""
    if not hasattr(block, "placements"):
        return rows
    shape = torch.Size([len(block), rows.shape[1]])
    return DTensor.from_local(rows, block.device_mesh, block.placements, shape=shape, stride=(rows.shape[1], 1))
