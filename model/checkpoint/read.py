"""Reads checkpoints."""

import json
import warnings
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    set_model_state_dict,
    set_state_dict,
)

from .safe_load import SafePlanner, SafeReader
from .state import reason, tensors_of, without_frozen

# What a state leaves out is left alone; that the files have all of it, reading them has found.
NOT_FROZEN = StateDictOptions(strict=False)


def load(checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer, extra: dict) -> dict:
    """Fills model, optimizer and the tensors in `extra`, sharded as they are now, at any number of ranks.

    Returns what `save` got as state. Raises ValueError when the files are damaged or not of `save`'s making.
    """
    tensors = tensors_of(model, optimizer) | extra
    _read(checkpoint, tensors, "; remove it to resume from the one before it")
    states = {"model_state_dict": tensors["model"], "optim_state_dict": tensors["optimizer"]}
    set_state_dict(model, optimizer, **states, options=NOT_FROZEN)
    return read_state(checkpoint)


def load_weights(checkpoint: Path, model: nn.Module) -> None:
    """Fills the model alone, sharded as it is now. Raises ValueError as `load` does, or for another shape of model."""
    state = without_frozen(get_model_state_dict(model), model)
    _read(checkpoint, {"model": state})
    set_model_state_dict(model, state, options=NOT_FROZEN)


def _read(checkpoint: Path, tensors: dict, what_to_do: str = "") -> None:
    try:
        dcp.load(tensors, storage_reader=SafeReader(checkpoint), planner=SafePlanner())
    except CheckpointException as error:
        raise ValueError(f"checkpoint {checkpoint} cannot be read: {reason(error)}{what_to_do}") from error


def read_tensors(checkpoint: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Fills whole tensors by their names, such as `prefilter.weights`, in one process that needs no others.

    Raises ValueError when the files are damaged, or have no such tensor of that shape.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it tells that there is one process
            dcp.load(dict(tensors), storage_reader=SafeReader(checkpoint), planner=SafePlanner(), no_dist=True)
    except CheckpointException as error:
        raise ValueError(f"checkpoint {checkpoint} cannot be read: {reason(error)}") from error


def read_state(checkpoint: Path) -> dict:
    """The `state` and step a checkpoint was saved with."""
    return json.loads((checkpoint / "state.json").read_text())
