"""What a checkpoint holds of a model and its optimizer, and why it could not be had or written."""

from torch import nn, optim
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_state_dict


def tensors_of(model: nn.Module, optimizer: optim.Optimizer) -> dict:
    model_state, optimizer_state = get_state_dict(model, optimizer)
    return {"model": without_frozen(model_state, model), "optimizer": optimizer_state}


def without_frozen(state: dict, model: nn.Module) -> dict:
    """A model's state without what is not trained: weights beside adapters are where they were read from."""
    frozen = {name for name, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad}
    return {name: value for name, value in state.items() if name not in frozen}


def reason(error: OSError | CheckpointException) -> str:
    """What went wrong first, in one line."""
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    return (str(error).strip() or type(error).__name__).splitlines()[0]
