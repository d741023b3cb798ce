"""In which order training samples come: a pure function of (shards, seed, epoch, lane, window).

An epoch permutes the shards and lays their samples end to end. Lane g is the g-th of G equal stretches of
that line; what is left over at its end (fewer samples than one step takes) sits out this epoch, and since the
shards are permuted it is another leftover every epoch. Inside a lane, windows of consecutive samples are each
permuted. Nothing here knows of ranks, processes or time, so neither does the order of candidates.
"""

from collections.abc import Sequence

import numpy as np

from ..permutation import SHARDS, WINDOW, permutation


class EpochOrder:
    """The order of every epoch over shards of the given sample counts, dealt to `groups` lanes.

    `first_samples`: the number of each shard's first sample; by default the samples are numbered without gaps.
    """

    def __init__(
        self,
        shard_samples: Sequence[int],
        first_samples: Sequence[int] | None = None,
        *,
        groups: int,
        drawn: int,
        seed: int,
        window: int,
    ):
        self._sizes = np.array(shard_samples, dtype=np.int64)
        running = np.cumsum(self._sizes) - self._sizes
        self._firsts = running if first_samples is None else np.array(first_samples, dtype=np.int64)
        self._seed = seed
        self.window_length = window
        self.steps_per_epoch = int(self._sizes.sum()) // (groups * drawn)
        self.lane_length = self.steps_per_epoch * drawn
        self._epoch = None

    def window(self, epoch: int, lane: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Window `number` of a lane as (sample ids in the order they lie on disk, permutation of them).

        The i-th sample to come is ids[permutation[i]]. The last window of a lane may be shorter.
        """
        first = number * self.window_length
        last = min(first + self.window_length, self.lane_length)
        ids = self._line(epoch, lane * self.lane_length + first, lane * self.lane_length + last)
        return ids, permutation(last - first, self._seed, WINDOW, epoch, lane, number)

    def _line(self, epoch: int, first: int, last: int) -> np.ndarray:
        """The sample ids at positions [first, last) of the epoch's line of permuted shards."""
        if self._epoch != epoch:
            self._shards = permutation(len(self._sizes), self._seed, SHARDS, epoch)
            self._begins = np.cumsum(self._sizes[self._shards]) - self._sizes[self._shards]
            self._epoch = epoch
        positions = np.arange(first, last)
        places = np.searchsorted(self._begins, positions, side="right") - 1
        return self._firsts[self._shards[places]] + positions - self._begins[places]
