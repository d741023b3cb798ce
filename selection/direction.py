"""The validation direction v: the mean gradient of the target samples, one block a parameter."""

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Direction:
    """v by parameter name; under FSDP2 every block is a DTensor sharded like its parameter."""

    blocks: dict[str, Tensor]

    def block(self, name: str) -> Tensor:
        """The whole block of a parameter, gathered from its shards (a collective: all ranks ask in one order)."""
        return whole(self.blocks[name])


def whole(tensor: Tensor) -> Tensor:
    """A plain tensor as it is; a DTensor gathered from all ranks."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
