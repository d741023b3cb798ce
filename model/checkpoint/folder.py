"""The folder of a run's checkpoints: which are complete, which is the newest, which are kept."""

import os
import shutil
from pathlib import Path

import torch.distributed as dist


def tidy(folder: Path, keep: int) -> None:
    """Removes what a killed run left half-made, and all but the last `keep` checkpoints; one process calls it."""
    for left in folder.glob(".step-*"):
        shutil.rmtree(left)
    for old in complete(folder)[:-keep]:
        remove(old)


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint; None where there is none."""
    found = complete(folder)
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
    if found not in complete(folder):
        raise ValueError(
            f"{found}, which rank 0 goes on from, is not there for this rank: all ranks need one run folder, on a disk "
            "that they share"
        )
    return found


def complete(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if (path / "state.json").exists())


def remove(checkpoint: Path) -> None:
    """Hidden first: a folder half removed must not pass for a checkpoint."""
    if checkpoint.exists():
        hidden = checkpoint.with_name(f".{checkpoint.name}.removed")
        os.replace(checkpoint, hidden)
        shutil.rmtree(hidden)
