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


# What a GPU's host would have to wait for: a number, or a shape that depends on the data.
WAITED_FOR = (
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "unique",
    "_unique2",
    "unique_dim",
    "equal",
    "bincount",
)


class HostReads(TorchDispatchMode):
    """What the host of a GPU would have waited for, in order: `waits`. The device here is meta.

    A copy to the host that is not waited for brings zeros.
    """

    def __init__(self):
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, function._schema.name.removeprefix("aten::")
        flat = [x for x in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        on_device = any(x.device.type == "meta" for x in flat)
        if on_device and (
            name in WAITED_FOR or (name.startswith("index") and any(x.dtype == torch.bool for x in flat[1:2]))
        ):
            self.waits.append(name)
        if name == "_to_copy" and flat[0].device.type != torch.device(kwargs.get("device") or flat[0].device).type:
            if not kwargs.get("non_blocking"):
                self.waits.append(f"copy to {kwargs['device']}")
            if on_device:
                return torch.zeros(flat[0].shape, dtype=kwargs.get("dtype") or flat[0].dtype)
        if name == "copy_" and {x.device.type for x in args[:2]} == {"meta", "cpu"} and not any(args[2:]):
            self.waits.append("copy_")
        return function(*args, **kwargs)
