"""What the recorder and the passes of a step owe to FSDP2, and ask of it."""

from collections.abc import Callable, Iterable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from ..direction.buckets import sum_over_ranks


def fsdp_modules(model: nn.Module) -> list[FSDPModule]:
    """In one order on every rank."""
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def _own(module: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters that FSDP2 gathers with a module: not those of modules in it that it gathers by themselves."""
    inner = {m for other in fsdp_modules(module) if other is not module for m in other.modules()}
    return (p for m in module.modules() if m not in inner for p in m.parameters(recurse=False))


class Parameters:
    """A model's parameters by name, as the optimizer has them.

    Between passes FSDP2 may show gathered ones in their place. look: before a pass. tell: after it, once they are
    trainable again. At a model's first forward FSDP2 learns from the trainable ones in which dtype gradients are kept.
    Was that forward a recorded one, all were frozen, and it would leave the gradients of later passes in the passes'
    own dtype. It learns anew whenever it gathers a module on demand; all ranks are here, as they were at the forward.
    """

    def __init__(self, model: nn.Module):
        self._model = model
        self._seen: set[nn.Module] = set()
        self._told: set[nn.Module] = set()
        self._to_send: dict[str, Tensor] = {}  # this rank's gradients, whole, while more are to come
        self.look()

    def look(self) -> None:
        modules = fsdp_modules(self._model)
        unseen = [module for module in modules if module not in self._seen]
        for module in unseen:
            module.reshard()
        if unseen or not modules:
            self.by_name = dict(self._model.named_parameters())
        self._seen.update(unseen)

    def tell(self) -> None:
        untold = [module for module in fsdp_modules(self._model) if module not in self._told]
        for module in untold:
            sharded = any(isinstance(p, DTensor) for p in _own(module))
            module.unshard()  # where it is gathered still, nothing is sent
            if sharded:
                module.reshard()
        self._told.update(untold)

    def untell(self) -> None:
        """There was no forward: their first one may be still to come."""
        self._told.clear()

    @property
    def _sharded(self) -> bool:
        return any(isinstance(p, DTensor) for p in self.by_name.values())

    def add(self, names: Iterable[str], make: Callable[[str], Tensor], more: bool) -> None:
        """Adds make(name), summed over ranks, to `.grad`; more: first with what the next call adds, on this rank."""
        if more and self._sharded:
            self._to_send = {name: self._with_kept(name, make(name)) for name in names}
            return
        parameters = {name: self.by_name[name] for name in names}
        for name, summed in sum_over_ranks(parameters, lambda name: self._with_kept(name, make(name))):
            parameter, summed = parameters[name], summed.to(parameters[name].dtype)
            parameter.grad = summed if parameter.grad is None else parameter.grad.add_(summed)

    def _with_kept(self, name: str, gradient: Tensor) -> Tensor:
        kept = self._to_send.pop(name, None)
        return gradient if kept is None else kept.add_(gradient)

    def samples(self, recorded: int, device: torch.device) -> int:
        """The recorded samples of all ranks that share the model."""
        if not self._sharded:
            return recorded
        count = torch.tensor(recorded, device=device)
        dist.all_reduce(count)
        return int(count)


class Held:
    """Over the passes of a step, FSDP2 gathers a parameter once, and sends a gradient once.

    By itself it gathers in every forward and again in every backward pass, and sends the gradients of every plain pass.
    Held, each rank has all parameters in the precision of the passes from the first pass of a step to its end, and,
    where it trains in several passes, all gradients. A model that is not sharded is left alone.
    """

    def __init__(self, model: nn.Module):
        self._modules = fsdp_modules(model)
        inner = {m for module in self._modules for m in module.modules() if m is not module}
        self._outermost = [module for module in self._modules if module not in inner]

    def begin(self) -> None:
        """Before the first of several passes."""
        for module in self._outermost:
            module.set_reshard_after_forward(False)
            module.set_reshard_after_backward(False)
            module.set_requires_gradient_sync(False)

    def last(self) -> None:
        """Before the last pass that trains: gradients are sent in it."""
        for module in self._outermost:
            module.set_requires_gradient_sync(True)

    def end(self) -> None:
        """After the last pass, and after what is still made of it: as FSDP2 is by itself."""
        for module in self._outermost:
            module.set_requires_gradient_sync(True)
            module.set_reshard_after_backward(True)
            module.set_reshard_after_forward(True)
            module.set_reshard_after_forward(False, recurse=False)  # used first and last in a pass
        for module in self._modules:
            module.reshard()
