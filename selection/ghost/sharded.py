"""What the recorder owes to FSDP2."""

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Partial


def sum_over_ranks(parameter: nn.Parameter, gradient: Tensor) -> Tensor:
    """This rank's share of a gradient, summed over ranks and laid out like its parameter (FSDP2: reduce-scatter)."""
    if not hasattr(parameter, "device_mesh"):
        return gradient
    mesh = parameter.device_mesh
    partial = DTensor.from_local(gradient, mesh, [Partial("sum")] * mesh.ndim)
    return partial.redistribute(placements=parameter.placements)


def tell_fsdp(model: nn.Module, told: set[nn.Module]) -> set[nn.Module]:
    """Has FSDP2 look at the parameters again, once a module, now that they are trainable; the modules it told.

    At a model's first forward it learns from the trainable ones in which dtype gradients are kept. Was that forward a
    recorded one, all were frozen, and it would leave the gradients of later passes in the passes' own dtype. It learns
    anew whenever it gathers a module on demand; all ranks are here, as they were at the forward.
    """
    modules = {module for module in model.modules() if isinstance(module, FSDPModule)} - told
    for module in model.modules():  # in one order on every rank
        if module in modules:
            module.unshard()
            module.reshard()
    return modules
