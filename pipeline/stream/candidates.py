"""CandidateStream: (manifest, seed, step) -> groups of candidates, read ahead of the step by worker processes.

Group g of every step is fed by lane g of the stream (pipeline/stream/order.py says which samples a lane holds). A
lane reads one window of samples at a time, so resuming at a step reads no more than that window again. Shape
suffixes: G groups here (lanes of this rank), n candidates drawn a group, T1 = T + 1 tokens.
"""

import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader

from ..dataset.manifest import Manifest
from ..dataset.remote import Mirror
from .lanes import Features, LaneReader
from .order import EpochOrder

# Samples a lane holds in memory: 2 MB at T = 1024. Prepare has shuffled the samples already; windows give
# every epoch another neighbourhood.
WINDOW = 1024
_STEPS_AHEAD = 4  # steps each worker reads ahead: a window is read while earlier steps are trained on


class Candidates(NamedTuple):
    """The candidates of one step, for the lanes of one rank."""

    step: int
    sample_ids_Gn: torch.Tensor  # int64
    tokens_GnT1: torch.Tensor  # int64, as SplitReader.marked gives them
    features_GnF: np.ndarray | None = None  # what the stream's `features` made of the tokens


class CandidateStream:
    """Endless groups of candidates over the `train` split of `dataset`: its folder, its mirror, or its manifest.

    groups: G, over all ranks; drawn: candidates a group gets each step; lanes: the groups this rank wants, in
    the order it wants them; step: the first step to yield; workers: processes that read ahead (0: read in
    this one); features: a function that can be pickled, from tokens [n, T+1] (as they are on disk) to an array
    [n, F] that travels with them, computed where they are read. What is yielded depends on (manifest, seed, groups,
    drawn, window, lane, step, features) and on nothing else. Raises ValueError when an epoch holds fewer samples than
    one step needs, or an argument is out of range; iterating raises ValueError naming the shard when one is broken,
    also when a worker met it.
    """

    def __init__(
        self,
        dataset: str | Path | Mirror | Manifest,
        *,
        groups: int,
        drawn: int,
        seed: int,
        lanes: Sequence[int],
        step: int = 0,
        workers: int = 0,
        window: int = WINDOW,
        features: Features | None = None,
    ):
        self.seed, self.step, self.drawn, self.features = seed, step, drawn, features
        self.lanes = list(lanes)
        self.workers = min(workers, len(self.lanes))
        self.manifest = dataset if isinstance(dataset, Manifest) else Manifest.load(dataset)
        for name, value, least in [
            ("groups", groups, 1),
            ("drawn", drawn, 1),
            ("window", window, 1),
            ("seed", seed, 0),
            ("step", step, 0),
            ("workers", workers, 0),
        ]:
            if value < least:
                raise ValueError(f"{name} is {value}; it must be at least {least}")
        if len(set(self.lanes)) < len(self.lanes) or not set(self.lanes) <= set(range(groups)) or not self.lanes:
            raise ValueError(f"lanes are {self.lanes}; they must be different numbers from 0 to {groups - 1}")
        samples = self.manifest.samples("train")
        if samples < groups * drawn:
            raise ValueError(
                f"{self.manifest.folder} has fewer samples than one step needs: {samples} in split train, where "
                f"{groups} groups of {drawn} candidates take {groups * drawn}"
            )
        shards = self.manifest.shards["train"]
        sizes, firsts = [shard.samples for shard in shards], [shard.first_sample for shard in shards]
        if self.workers:
            _fork_server()
        self._order = EpochOrder(sizes, firsts, groups=groups, drawn=drawn, seed=seed, window=window)

    @property
    def steps_per_epoch(self) -> int:
        return self._order.steps_per_epoch

    def __iter__(self) -> Iterator[Candidates]:
        reading = LaneReader(self.manifest, self._order, self.lanes, self.drawn, self.step, self.features)
        parts = iter(self._loader(reading)) if self.workers else iter(reading)
        stride = max(self.workers, 1)
        shape = (len(self.lanes), self.drawn)
        try:
            for step in count(self.step):
                ids_Gn = torch.empty(shape, dtype=torch.int64)
                tokens_GnT1 = torch.empty((*shape, self.manifest.sequence_length + 1), dtype=torch.int64)
                features_GnF = None
                for _ in range(stride):
                    part = next(parts)
                    if isinstance(part, str):
                        raise ValueError(part)
                    read_step, worker, ids, tokens, features = part
                    assert read_step == step
                    ids_Gn[worker::stride] = torch.from_numpy(ids)
                    tokens_GnT1[worker::stride] = torch.from_numpy(tokens.astype(np.int64))
                    if features is not None:
                        if features_GnF is None:
                            features_GnF = np.empty((*shape, *features.shape[2:]), features.dtype)
                        features_GnF[worker::stride] = features
                self.step = step + 1
                yield Candidates(step, ids_Gn, tokens_GnT1, features_GnF)
        finally:
            del parts  # ends the workers now, even while the traceback of an error keeps this frame

    def _loader(self, reading: "LaneReader") -> DataLoader:
        return DataLoader(
            reading,
            batch_size=None,
            num_workers=self.workers,
            multiprocessing_context=_fork_server(),
            prefetch_factor=_STEPS_AHEAD,
            collate_fn=_as_it_is,
            generator=torch.Generator(),  # it would draw from the global one, which is the training run's
        )

    def state_dict(self) -> dict:
        """Where the stream stands: the next step that it will yield, of which dataset and seed."""
        return {"manifest": self.manifest.sha256, "seed": self.seed, "step": self.step}

    def load_state_dict(self, state: dict) -> None:
        """Go on from `state` (the next iteration begins there). ValueError for another dataset or seed."""
        if state["manifest"] != self.manifest.sha256:
            raise ValueError(
                f"the state belongs to another dataset: its manifest's sha256 is {state['manifest']}, that of "
                f"{self.manifest.folder} is {self.manifest.sha256}"
            )
        if state["seed"] != self.seed:
            raise ValueError(f"the state was saved with seed {state['seed']}, but this stream has seed {self.seed}")
        self.step = state["step"]


def _fork_server() -> multiprocessing.context.BaseContext:
    """What workers are started by: on its way from the first call on, so that its imports are done when it is needed.

    Not fork: by now this process may hold CUDA, and threads of torch.distributed whose locks a forked child would
    inherit locked. A fork server forks from a clean process, and having imported this module beforehand it starts a
    worker faster than spawn does.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    multiprocessing.forkserver.ensure_running()
    return context


def _as_it_is(part):
    """Keeps DataLoader from making tensors of arrays: a tensor travels by a file descriptor and shared memory, which
    takes longer than copying a step's two bytes a token, and small containers have little of it."""
    return part
