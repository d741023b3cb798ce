"""What a checkpoint costs: how long training stands still for it, and when it is on disk.

    python -m scripts.bench checkpoint [--n-layer 12] [--out runs]

A GPT-2 with AdamW's moments, sharded over one process, is saved again and again into a folder that is then removed.
"""

import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from rich.console import Console
from rich.table import Table

from model.build import build_gpt2
from model.checkpoint import CheckpointWriter
from model.gpt2 import GPT2Config
from model.optimizer import build_adamw
from model.world import World


@dataclass(frozen=True)
class CheckpointOptions:
    """python -m scripts.bench checkpoint"""

    n_layer: int = 12
    """Transformer blocks."""
    n_embd: int = 768
    """Width D."""
    n_head: int = 12
    """Attention heads."""
    vocab_size: int = 50257
    """V."""
    rounds: int = 3
    """Checkpoints that are written."""
    out: str = "."
    """Folder on the disk that is measured."""


@dataclass
class Saved:
    """Of one checkpoint, in seconds: until training goes on, what of that was computing, until it is on disk."""

    stands: float
    computes: float
    written: float


def measure(options: CheckpointOptions, world: World, folder: Path) -> list[Saved]:
    shape = GPT2Config(options.vocab_size, options.n_layer, options.n_head, options.n_embd)
    model = build_gpt2(shape, world.mesh, "float32", seed=0)
    optimizer = build_adamw(model, 1e-4, weight_decay=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    writer, found = CheckpointWriter(folder, keep=1), []
    for step in range(options.rounds):
        began, computed = time.perf_counter(), time.process_time()
        writer.save(step, model, optimizer, {}, {})
        stands, computes = time.perf_counter() - began, time.process_time() - computed
        writer.finish()
        found.append(Saved(stands, computes, time.perf_counter() - began))
    return found


def main(arguments: list[str]) -> int:
    """Runs the command line."""
    options = tyro.cli(CheckpointOptions, args=arguments, prog="scripts.bench checkpoint", description=__doc__)
    if options.rounds < 1:
        raise ValueError(f"--rounds is {options.rounds}; it must be at least 1")
    if not Path(options.out).is_dir():
        raise ValueError(f"--out {options.out} is no folder: give one on the disk to be measured")
    world, folder = World.join("cpu"), Path(tempfile.mkdtemp(dir=options.out))
    try:
        found = measure(options, world, folder)
    finally:
        shutil.rmtree(folder)
        world.leave()
    table = Table("checkpoint", "stands still", "of which computing", "on disk after")
    for number, saved in enumerate(found, 1):
        table.add_row(str(number), *(f"{seconds:.2f} s" for seconds in vars(saved).values()))
    Console().print(table)
    return 0
