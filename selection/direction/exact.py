"""The validation direction v, one block a parameter.

o and i are the two dimensions of a weight, r the rank. Under FSDP2 exact blocks are DTensors sharded like their
parameters; low-rank blocks are small and whole on every rank.
"""

from dataclasses import dataclass, field

from torch import Tensor

from .buckets import gathered
from .low_rank import LowRank, find_ranges


@dataclass
class Direction:
    """v by parameter name; see the module's text for where the blocks live."""

    blocks: dict[str, Tensor | LowRank]
    _whole: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def gather(self) -> None:
        """Gathers all exact blocks, in few collectives; they stay whole on every rank for as long as this lives."""
        self._whole = gathered({name: b for name, b in self.blocks.items() if not isinstance(b, LowRank)})

    def block(self, name: str) -> Tensor | LowRank:
        """A parameter's block, whole; unless all were gathered, a collective where it is sharded: all ranks ask."""
        block = self._whole.get(name, self.blocks[name])
        return block if isinstance(block, LowRank) else whole(block)

    def scaled(self, factor: float) -> "Direction":
        """factor * v, in memory of its own."""
        return Direction(
            {
                name: LowRank(b.left_or * factor, b.right_ir) if isinstance(b, LowRank) else b * factor
                for name, b in self.blocks.items()
            }
        )

    def __add__(self, other: "Direction") -> "Direction":
        """v of the parameters of both, none of which is in both."""
        assert not self.blocks.keys() & other.blocks.keys()
        return Direction(self.blocks | other.blocks)

    def divided(self, divisors: "Direction") -> "Direction":
        """v / divisors, entry by entry; both exact."""
        return Direction({name: block / divisors.blocks[name] for name, block in self.blocks.items()})

    def low_rank(self, rank: int) -> "Direction":
        """Every matrix of more than `rank` rows and columns reduced to its leading `rank` directions."""
        wide = {name: b for name, b in self.blocks.items() if b.dim() == 2 and min(b.shape) > rank}
        return Direction(self.blocks | find_ranges(wide, rank))


def whole(tensor: Tensor) -> Tensor:
    """A plain tensor as it is; a DTensor gathered from all ranks."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
