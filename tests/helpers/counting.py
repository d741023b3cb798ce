"""Counts what a GPU would be asked to do, by a device that computes nothing: meta."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Nothing runs for memory from the caching allocator, or for what a tensor knows of itself.
NO_KERNEL = ("aten::empty", "aten::empty_like", "aten::new_empty", "aten::detach", "aten::promote_types")


class Launches(TorchDispatchMode):
    """The names of all operations that launch a kernel, in order: not views, and not bare allocations."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        returns = function._schema.returns
        view = any(r.alias_info is not None and not r.alias_info.is_write for r in returns)
        if not view and function._schema.name not in NO_KERNEL:
            self.names.append(function._schema.name)
        return function(*args, **(kwargs or {}))


def on_gpu(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")
