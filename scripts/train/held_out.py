"""The held-out splits during training: `target` samples for the direction, `val` and `test` for measuring."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.world import World, sum_over_ranks
from pipeline.dataset.manifest import Manifest
from pipeline.dataset.reader import SplitReader, inputs_and_targets, trimmed


@contextmanager
def measuring(model: nn.Module) -> Iterator[None]:
    """Without dropout and gradients; the model's mode is afterwards what it was."""
    mode = model.training
    model.eval()
    with torch.no_grad():
        yield
    model.train(mode)


class HeldOut:
    """One held-out split, read by all ranks together: each takes its share, all shares have one length.

    Equal shares keep FSDP's collectives in step; what fills up a short share is masked and weighs nothing.
    """

    def __init__(self, split: str, manifest: Manifest, world: World):
        self._manifest, self._world = manifest, world
        self._reader = SplitReader(manifest, split)

    def share(self, samples: Sequence[int]) -> tuple[Tensor, Tensor]:
        """This rank's (inputs [n, T], targets [n, T]) of `samples`, n = ceil(len(samples) / ranks), on its device."""
        mine = list(samples[self._world.rank :: self._world.size])
        length = -(-len(samples) // self._world.size)
        filled = mine + list(samples[: length - len(mine)])
        tokens_nT1 = trimmed(self._reader.marked(filled), self._manifest)
        inputs_nT, targets_nT = inputs_and_targets(tokens_nT1, self._manifest)
        targets_nT[len(mine) :] = -1
        return self._world.sent(inputs_nT), self._world.sent(targets_nT)

    def losses(self, model: nn.Module, samples: Sequence[int]) -> np.ndarray:
        """The loss of each of `samples`, float64 [len(samples)], the same on every rank; one pass over all of them."""
        with measuring(model):
            mine_n = model(*self.share(samples)).double()
        everyones = [torch.empty_like(mine_n) for _ in range(self._world.size)]
        dist.all_gather(everyones, mine_n)
        return torch.stack(everyones, dim=1).flatten()[: len(samples)].cpu().numpy()

    def loss(self, model: nn.Module, samples: Sequence[int], batch: int) -> float:
        """Mean loss of `samples`, each sample's mean over its own tokens; `batch` samples a pass on every rank."""
        total = torch.zeros((), dtype=torch.float64, device=self._world.device)
        with measuring(model):
            for start in range(0, len(samples), batch * self._world.size):
                inputs_nT, targets_nT = self.share(samples[start : start + batch * self._world.size])
                total += model(inputs_nT, targets_nT).double().sum()
        return sum_over_ranks(total).item() / len(samples)
