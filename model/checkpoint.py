"""Checkpoints: sharded by torch.distributed.checkpoint, complete or invisible, the last few kept.

A checkpoint is a folder `step-<steps done>` that holds the tensors of model and optimizer and `state.json`. It is
written under a hidden name and renamed when every rank is done, so a folder of that name is always whole.
"""

import json
import os
import shutil
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict


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
    Afterwards only the last `keep` checkpoints are left.
    """
    final = folder / f"step-{step:08d}"
    partial = folder / f".{final.name}.partial"
    if dist.get_rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    dist.barrier()
    dcp.save(_tensors(model, optimizer) | extra, checkpoint_id=partial)
    if dist.get_rank() == 0:
        (partial / "state.json").write_text(json.dumps({"step": step, **state}, indent=1))
        _sync_to_disk(partial)
        if final.exists():  # a run that was taken up before this step and has reached it again
            shutil.rmtree(final)
        os.replace(partial, final)
        for old in _complete(folder)[:-keep]:
            shutil.rmtree(old)
    dist.barrier()
    return final


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint; None where there is none."""
    found = _complete(folder)
    return found[-1] if found else None


def load(checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer, extra: dict) -> dict:
    """Fills model, optimizer and the tensors in `extra`, sharded as they are now, at any number of ranks.

    Returns what `save` got as state.
    """
    tensors = _tensors(model, optimizer) | extra
    dcp.load(tensors, checkpoint_id=checkpoint)
    set_state_dict(model, optimizer, model_state_dict=tensors["model"], optim_state_dict=tensors["optimizer"])
    return read_state(checkpoint)


def read_state(checkpoint: Path) -> dict:
    """The `state` and step a checkpoint was saved with."""
    return json.loads((checkpoint / "state.json").read_text())


def _tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict:
    model_state, optimizer_state = get_state_dict(model, optimizer)
    return {"model": model_state, "optimizer": optimizer_state}


def _complete(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if (path / "state.json").exists())


def _sync_to_disk(folder: Path) -> None:
    """The rename must not reach the disk before the files it names."""
    for path in [*folder.iterdir(), folder]:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
