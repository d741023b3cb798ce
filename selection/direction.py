"""The validation direction v: exact, low-rank, a running average, preconditioned; one block a parameter.

o and i are the two dimensions of a weight, r the rank. Under FSDP2 exact blocks are DTensors sharded like their
parameters; low-rank blocks are small and whole on every rank.
"""

import functools
import hashlib
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

POWER_ITERATIONS = 2  # of the range finder; a third changed no score in the third digit


@dataclass(frozen=True)
class LowRank:
    """A weight's block as a product: left_or @ right_ir.T, the same on every rank."""

    left_or: Tensor
    right_ir: Tensor

    def whole(self) -> Tensor:
        return self.left_or @ self.right_ir.T


@dataclass
class Direction:
    """v by parameter name; see the module's text for where the blocks live."""

    blocks: dict[str, Tensor | LowRank]

    def block(self, name: str) -> Tensor | LowRank:
        """A parameter's block, gathered if it is sharded (a collective: all ranks ask in one order)."""
        block = self.blocks[name]
        return block if isinstance(block, LowRank) else whole(block)

    def scaled(self, factor: float) -> "Direction":
        """factor * v, in memory of its own."""
        return Direction(
            {
                name: LowRank(b.left_or * factor, b.right_ir) if isinstance(b, LowRank) else b * factor
                for name, b in self.blocks.items()
            }
        )

    def low_rank(self, rank: int) -> "Direction":
        """Every matrix of more than `rank` rows and columns reduced to its leading `rank` directions."""
        wide = {name: b for name, b in self.blocks.items() if b.dim() == 2 and min(b.shape) > rank}
        return Direction(self.blocks | _find_ranges(wide, rank))


@functools.cache
def seeded_normal(name: str, rows: int, columns: int) -> Tensor:
    """Standard normal numbers [rows, columns], a function of the name and so the same on every rank."""
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big"))
    return torch.randn(rows, columns, generator=generator)


def whole(tensor: Tensor) -> Tensor:
    """A plain tensor as it is; a DTensor gathered from all ranks."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


class RunningDirection:
    """A bias-corrected running average of fresh mean gradients: few target samples a step, a steady direction.

    After t updates with gradients g_1..g_t it is (1 - decay) sum_s decay^(t-s) g_s / (1 - decay^t), as Adam corrects
    its first moment (Kingma & Ba 2015, section 3). decay = 0 is the newest gradient alone. rank > 0 gives each
    average out in low-rank form. The average is sharded like the parameters.
    """

    def __init__(self, decay: float, rank: int = 0):
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be at least 0 and below 1, not {decay}")
        if rank < 0:
            raise ValueError(f"rank must be at least 0 (0: exact), not {rank}")
        self.decay, self.rank = decay, rank
        self._updates = 0
        self._sums: dict[str, Tensor] = {}

    def update(self, recorder, samples: int | None = None) -> Direction:
        """Takes in what `recorder` (a GhostRecorder) has just recorded; `samples` as in its `direction`."""
        fresh = recorder.direction(samples)
        self._updates += 1
        if not self._sums:
            self._sums = {name: torch.zeros_like(block) for name, block in fresh.blocks.items()}
        for name, block in fresh.blocks.items():
            self._sums[name].lerp_(block, 1 - self.decay)
        correction = 1 - self.decay**self._updates
        sums = Direction(self._sums)
        return (sums.low_rank(self.rank) if self.rank else sums).scaled(1 / correction)

    def state_dict(self) -> dict:
        """Tensors (DTensors where sharded) to be saved with the model's."""
        return {"updates": torch.tensor(self._updates), "sums": dict(self._sums)}

    @staticmethod
    def empty_state(parameters: dict[str, Tensor]) -> dict:
        """A state_dict of zeros, laid out like `parameters`, for a checkpoint to be read into."""
        sums = {name: torch.zeros_like(parameter.detach()) for name, parameter in parameters.items()}
        return {"updates": torch.tensor(0), "sums": sums}

    def load_state_dict(self, state: dict) -> None:
        self._updates = int(state["updates"])
        self._sums = dict(state["sums"])


def adam_preconditioned(direction: Direction, optimizer: torch.optim.Optimizer, parameters: dict) -> Direction:
    """v / (sqrt(second moment) + eps), by parameter: what a step of AdamW along g_i changes the loss by is <g_i, P v>.

    The second moment is the optimizer's, bias-corrected, as of its last step (before the first step v is returned
    as it is). Exact for the first-order term; a gram stays one of raw gradients. `parameters`: name -> parameter.
    """
    blocks = {}
    for name, block in direction.blocks.items():
        state = optimizer.state.get(parameters[name])
        if not state:
            return direction
        group = next(g for g in optimizer.param_groups if any(p is parameters[name] for p in g["params"]))
        correction = 1 - group["betas"][1] ** float(state["step"])
        blocks[name] = block / ((state["exp_avg_sq"] / correction).sqrt_() + group["eps"])
    return Direction(blocks)


def _find_ranges(blocks: dict[str, Tensor], rank: int) -> dict[str, LowRank]:
    """Randomized range finder with power iteration (Halko, Martinsson & Tropp 2011, algorithms 4.3 and 4.4).

    With M in row shards M_k, M^T Y = sum_k M_k^T Y_k is one small sum over the ranks, and M Q is made row by row
    where the rows are. All matrices share each sum, and only factors travel: (2 i + o) r numbers a matrix.
    """
    if not blocks:
        return {}
    local = {name: _local(block) for name, block in blocks.items()}
    start = {
        name: _local(_laid_out_like(block, seeded_normal(name, len(block), rank))) for name, block in blocks.items()
    }
    basis = {name: rows.T @ start[name].to(rows) for name, rows in local.items()}
    for iteration in range(1, POWER_ITERATIONS + 1):
        basis = {name: torch.linalg.qr(part).Q for name, part in _summed(basis, next(iter(blocks.values()))).items()}
        if iteration < POWER_ITERATIONS:
            basis = {name: rows.T @ (rows @ basis[name]) for name, rows in local.items()}
    return {name: LowRank(_gathered(local[name] @ basis[name], block), basis[name]) for name, block in blocks.items()}


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _laid_out_like(block: Tensor, tensor: Tensor) -> Tensor:
    """A tensor that every rank holds whole, sharded by rows as `block` is; nothing is sent."""
    if not hasattr(block, "placements"):
        return tensor
    tensor = tensor.to(block.device)
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


def _gathered(rows: Tensor, block: Tensor) -> Tensor:
    """This rank's rows and the others', in order."""
    if not hasattr(block, "placements"):
        return rows
    shape = torch.Size([len(block), rows.shape[1]])
    return DTensor.from_local(
        rows, block.device_mesh, block.placements, shape=shape, stride=(rows.shape[1], 1)
    ).full_tensor()
