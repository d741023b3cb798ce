"""Checkpoints: sharded by torch.distributed.checkpoint, complete or invisible, the last few kept.

A checkpoint is a folder `step-<steps done>` with what is trained of the model, the tensors of its optimizer and
`state.json`. It is written under a hidden name and renamed when every rank is done, so a folder of that name is
always whole. Reading one runs no code that it brings (safe_load.py).
"""

from .folder import latest, latest_for_all, tidy
from .read import load, load_weights, read_state, read_tensors
from .write import CheckpointWriter

__all__ = [
    "CheckpointWriter",
    "latest",
    "latest_for_all",
    "load",
    "load_weights",
    "read_state",
    "read_tensors",
    "tidy",
]
