"""A running average of fresh directions over steps."""

import torch
from torch import Tensor

from .exact import Direction


class RunningDirection:
    """A bias-corrected running average of fresh mean gradients: few target samples a step, a steady direction.

    After t updates with gradients g_1..g_t it is (1 - decay) sum_s decay^(t-s) g_s / (1 - decay^t), as Adam corrects
    its first moment (Kingma & Ba 2015, section 3). decay = 0 is the newest gradient alone. rank > 0 gives each
    average out in low-rank form. The average is sharded like the parameters.
    """

    def __init__(self, decay: float, rank: int = 0):
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be at least 0 and below 1, not {decay}")
        if rank < 0:
            raise ValueError(f"rank must be at least 0 (0: exact), not {rank}")
        self.decay, self.rank = decay, rank
        self._updates = 0
        self._sums: dict[str, Tensor] = {}

    def update(self, recorder, samples: int | None = None) -> Direction:
        """Takes in what `recorder` (a GhostRecorder) has just recorded; `samples` as in its `direction`."""
        return self.take_in(recorder.direction(samples))

    def take_in(self, fresh: Direction) -> Direction:
        """Takes in a fresh mean gradient."""
        self._updates += 1
        if not self._sums:
            self._sums = {name: torch.zeros_like(block) for name, block in fresh.blocks.items()}
        for name, block in fresh.blocks.items():
            self._sums[name].lerp_(block, 1 - self.decay)
        correction = 1 - self.decay**self._updates
        sums = Direction(self._sums)
        return (sums.low_rank(self.rank) if self.rank else sums).scaled(1 / correction)

    def state_dict(self) -> dict:
        """Tensors (DTensors where sharded) to be saved with the model's."""
        return {"updates": torch.tensor(self._updates), "sums": dict(self._sums)}

    @staticmethod
    def empty_state(parameters: dict[str, Tensor]) -> dict:
        """A state_dict of zeros, laid out like `parameters`, for a checkpoint to be read into."""
        sums = {name: torch.zeros_like(parameter.detach()) for name, parameter in parameters.items()}
        return {"updates": torch.tensor(0), "sums": sums}

    def load_state_dict(self, state: dict) -> None:
        self._updates = int(state["updates"])
        self._sums = dict(state["sums"])
