"""Writes checkpoints in a thread beside training, which waits for a copy of the tensors and not for the disk."""

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException

from .folder import remove, tidy
from .state import reason, tensors_of


class CheckpointWriter:
    """Writes `<folder>/step-<step>`, one at a time, and keeps the last `keep`. All ranks make it, and call it alike.

    What the ranks tell each other while they write goes by a process group of its own, on the hosts: training uses the
    others meanwhile. The copy is kept in memory from one checkpoint to the next: as much again as a rank's shards of
    the parameters and of the optimizer's moments.
    """

    def __init__(self, folder: Path, keep: int):
        self.folder, self.keep = folder, keep
        self._group = dist.new_group(backend="gloo")
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future | None = None
        self._copies: dict[str, torch.Tensor] = {}

    def save(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, extra: dict, state: dict) -> None:
        """Begins to write a checkpoint of how things are now, when the one before is there.

        extra: further tensors (DTensors where sharded), nested in dicts; state: JSON-able, the same on every rank.
        """
        self.finish()
        with torch.no_grad():
            tensors = self._copied(tensors_of(model, optimizer) | extra)
        self._writing = self._thread.submit(self._write, step, tensors, {"step": step, **state})

    def check(self) -> None:
        """ValueError where a checkpoint could not be written; does not wait."""
        if self._writing is not None and self._writing.done():
            self.finish()

    def finish(self) -> None:
        """Waits until what `save` began is on disk. ValueError, on every rank, where it cannot be written: the
        checkpoints that there were are left."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _copied(self, value: Any, name: str = "") -> Any:
        """A value of a state with its tensors on the host, in memory that nothing else writes to."""
        if isinstance(value, dict):
            return {key: self._copied(part, f"{name}.{key}") for key, part in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._copied(part, f"{name}.{place}") for place, part in enumerate(value))
        if not isinstance(value, torch.Tensor):
            return value
        if name not in self._copies:
            self._copies[name] = value.clone() if value.device.type == "cpu" else value.to("cpu")
        elif hasattr(value, "to_local"):
            self._copies[name].to_local().copy_(value.to_local())
        else:
            self._copies[name].copy_(value)
        return self._copies[name]

    def _write(self, step: int, tensors: dict, state: dict) -> None:
        """Under a hidden name, which is changed when every rank is done: what has a checkpoint's name is whole."""
        final = self.folder / f"step-{step:08d}"
        partial = self.folder / f".{final.name}.partial"

        def clear() -> None:
            tidy(self.folder, self.keep)
            partial.mkdir(parents=True)

        def finish() -> None:
            (partial / "state.json").write_text(json.dumps(state, indent=1))
            _sync_to_disk(partial)
            remove(final)  # there only if a run was taken up from before this step and has reached it again
            os.replace(partial, final)
            tidy(self.folder, self.keep)

        try:
            self._on_first_rank(clear)
            dcp.save(tensors, checkpoint_id=partial, process_group=self._group)
            self._on_first_rank(finish)
        except (OSError, CheckpointException) as error:
            if dist.get_rank() == 0:
                shutil.rmtree(partial, ignore_errors=True)  # best effort: it is hidden, and the next save clears it
            raise ValueError(
                f"checkpoint {final} cannot be written: {reason(error)}; those before it are whole"
            ) from error

    def _on_first_rank(self, action: Callable[[], None]) -> None:
        """Runs `action` on rank 0 while the others wait; what OSError it raises there is raised on every rank."""
        problem = [None]
        if dist.get_rank() == 0:
            try:
                action()
            except OSError as error:
                problem = [str(error)]
        dist.broadcast_object_list(problem, group=self._group, device=torch.device("cpu"))
        if problem[0] is not None:
            raise OSError(problem[0])


def _sync_to_disk(folder: Path) -> None:
    """The rename must not reach the disk before the files it names."""
    for path in [*folder.iterdir(), folder]:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
