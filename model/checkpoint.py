"""Checkpoints: sharded by torch.distributed.checkpoint, complete or invisible, the last few kept.

A checkpoint is a folder `step-<steps done>` with what is trained of the model, the tensors of its optimizer and
`state.json`. It is written under a hidden name and renamed when every rank is done, so a folder of that name is
always whole. Reading one runs no code that it brings (model/safe_load.py).
"""

import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)

from .safe_load import SafePlanner, SafeReader

# What a state leaves out is left alone; that the files have all of it, reading them has found.
NOT_FROZEN = StateDictOptions(strict=False)


def save(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    extra: dict,
    state: dict,
    keep: int,
) -> Path:
    """Writes `<folder>/step-<step>`; all ranks call it.

    extra: further tensors (DTensors where sharded), nested in dicts; state: JSON-able, the same on every rank.
    Afterwards only the last `keep` checkpoints are left. Raises ValueError on every rank, and leaves the checkpoints
    there were, when this one cannot be written.
    """
    final = folder / f"step-{step:08d}"
    partial = folder / f".{final.name}.partial"

    def clear() -> None:
        tidy(folder, keep)
        partial.mkdir(parents=True)

    def finish() -> None:
        (partial / "state.json").write_text(json.dumps({"step": step, **state}, indent=1))
        _sync_to_disk(partial)
        _remove(final)  # there only if a run was taken up from before this step and has reached it again
        os.replace(partial, final)
        tidy(folder, keep)

    try:
        _on_first_rank(clear)
        dcp.save(_tensors(model, optimizer) | extra, checkpoint_id=partial)
        _on_first_rank(finish)
    except (OSError, CheckpointException) as error:
        if dist.get_rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)  # best effort: it is hidden, and the next save clears it
        raise ValueError(
            f"checkpoint {final} cannot be written: {_reason(error)}; those before it are whole"
        ) from error
    return final


def tidy(folder: Path, keep: int) -> None:
    """Removes what a killed run left half-made, and all but the last `keep` checkpoints; one process calls it."""
    for left in folder.glob(".step-*"):
        shutil.rmtree(left)
    for old in _complete(folder)[:-keep]:
        _remove(old)


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint; None where there is none."""
    found = _complete(folder)
    return found[-1] if found else None


def latest_for_all(folder: Path) -> Path | None:
    """The newest complete checkpoint as rank 0 sees it; all ranks call it, so that all go on from the same one.

    Raises ValueError on a rank that does not see it.
    """
    newest = latest(folder) if dist.get_rank() == 0 else None
    told = [newest and newest.name]
    dist.broadcast_object_list(told)
    if told[0] is None:
        return None
    found = folder / told[0]
    if found not in _complete(folder):
        raise ValueError(
            f"{found}, which rank 0 goes on from, is not there for this rank: all ranks need one run folder, on a disk "
            "that they share"
        )
    return found


def load(checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer, extra: dict) -> dict:
    """Fills model, optimizer and the tensors in `extra`, sharded as they are now, at any number of ranks.

    Returns what `save` got as state. Raises ValueError when the files are damaged or not of `save`'s making.
    """
    tensors = _tensors(model, optimizer) | extra
    _read(checkpoint, tensors, "; remove it to resume from the one before it")
    states = {"model_state_dict": tensors["model"], "optim_state_dict": tensors["optimizer"]}
    set_state_dict(model, optimizer, **states, options=NOT_FROZEN)
    return read_state(checkpoint)


def load_weights(checkpoint: Path, model: nn.Module) -> None:
    """Fills the model alone, sharded as it is now. Raises ValueError as `load` does, or for another shape of model."""
    state = _without_frozen(get_model_state_dict(model), model)
    _read(checkpoint, {"model": state})
    set_model_state_dict(model, state, options=NOT_FROZEN)


def _read(checkpoint: Path, tensors: dict, what_to_do: str = "") -> None:
    try:
        dcp.load(tensors, storage_reader=SafeReader(checkpoint), planner=SafePlanner())
    except CheckpointException as error:
        raise ValueError(f"checkpoint {checkpoint} cannot be read: {_reason(error)}{what_to_do}") from error


def read_tensors(checkpoint: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Fills whole tensors by their names, such as `prefilter.weights`, in one process that needs no others.

    Raises ValueError when the files are damaged, or have no such tensor of that shape.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it tells that there is one process
            dcp.load(dict(tensors), storage_reader=SafeReader(checkpoint), planner=SafePlanner(), no_dist=True)
    except CheckpointException as error:
        raise ValueError(f"checkpoint {checkpoint} cannot be read: {_reason(error)}") from error


def read_state(checkpoint: Path) -> dict:
    """The `state` and step a checkpoint was saved with."""
    return json.loads((checkpoint / "state.json").read_text())


def _tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict:
    model_state, optimizer_state = get_state_dict(model, optimizer)
    return {"model": _without_frozen(model_state, model), "optimizer": optimizer_state}


def _without_frozen(state: dict, model: nn.Module) -> dict:
    """A model's state without what is not trained: weights beside adapters are where they were read from."""
    frozen = {name for name, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad}
    return {name: value for name, value in state.items() if name not in frozen}


def _complete(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if (path / "state.json").exists())


def _on_first_rank(action: Callable[[], None]) -> None:
    """Runs `action` on rank 0 while the others wait; what OSError it raises there is raised on every rank."""
    problem = [None]
    if dist.get_rank() == 0:
        try:
            action()
        except OSError as error:
            problem = [str(error)]
    dist.broadcast_object_list(problem)
    if problem[0] is not None:
        raise OSError(problem[0])


def _reason(error: OSError | CheckpointException) -> str:
    """What went wrong first, in one line."""
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _remove(checkpoint: Path) -> None:
    """Hidden first: a folder half removed must not pass for a checkpoint."""
    if checkpoint.exists():
        hidden = checkpoint.with_name(f".{checkpoint.name}.removed")
        os.replace(checkpoint, hidden)
        shutil.rmtree(hidden)


def _sync_to_disk(folder: Path) -> None:
    """The rename must not reach the disk before the files it names."""
    for path in [*folder.iterdir(), folder]:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
