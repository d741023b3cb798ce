"""What reads the lanes of a rank: here, or in worker processes that outlive a signal but not the training process.

Shape suffixes: n candidates drawn a group, T1 = T + 1 tokens.
"""

import os
import signal
import threading
from collections.abc import Callable
from itertools import count

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from ..dataset.manifest import Manifest
from ..dataset.reader import SplitReader, plain
from ..processes import end_with_parent
from .order import EpochOrder

Features = Callable[[np.ndarray], np.ndarray]

_GRACE = 25.0  # seconds a worker outlives a SIGTERM, if its training process does


class LaneReader(IterableDataset):
    """Yields (step, worker, ids, tokens, features) of the lanes of this worker: every workers-th of `lanes`.

    A ValueError (a broken shard) is yielded as its sentence: raised here, DataLoader would wrap it in a
    traceback.
    """

    def __init__(
        self,
        manifest: Manifest,
        order: EpochOrder,
        lanes: list[int],
        drawn: int,
        step: int,
        features: Features | None,
    ):
        self.manifest, self.order, self.lanes, self.drawn, self.step = manifest, order, lanes, drawn, step
        self.features = features

    def __iter__(self):
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        if info:
            end_with_parent()
            # A terminal and most schedulers signal all processes of a run, which then finishes its step: its workers
            # stay for that. SIGTERM is also how DataLoader ends a worker that is stuck.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, _end_later)
        mine = self.lanes[worker::workers]
        try:
            reader = SplitReader(self.manifest, "train", open_shards=2 * len(mine))
            lanes = [_Lane(lane, reader, self.order, self.drawn) for lane in mine]
            for step in count(self.step):
                ids, tokens = zip(*(lane.read(step) for lane in lanes), strict=True)
                texts = (plain(part, self.manifest) for part in tokens) if self.features else ()
                features = np.stack([self.features(part) for part in texts]) if self.features else None
                yield step, worker, np.stack(ids), np.stack(tokens), features
        except ValueError as error:
            yield str(error)


def _end_later(*_) -> None:
    timer = threading.Timer(_GRACE, os._exit, [0])
    timer.daemon = True
    timer.start()


class _Lane:
    """One lane, and the window of it that was read last."""

    def __init__(self, lane: int, reader: SplitReader, order: EpochOrder, drawn: int):
        self.lane, self.reader, self.order, self.drawn = lane, reader, order, drawn
        self._held = None

    def read(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Sample ids [n] and tokens [n, T+1], as SplitReader.marked gives them, of this lane's group at `step`."""
        epoch, step = divmod(step, self.order.steps_per_epoch)
        first, last = step * self.drawn, (step + 1) * self.drawn
        length = self.order.window_length
        ids, tokens = [], []
        for number in range(first // length, (last - 1) // length + 1):
            self._hold(epoch, number)
            begin, end = max(first - number * length, 0), last - number * length
            ids.append(self._ids[begin:end])
            tokens.append(self._tokens[begin:end])
        return np.concatenate(ids), np.concatenate(tokens)

    def _hold(self, epoch: int, number: int):
        if self._held == (epoch, number):
            return
        ids, permuted = self.order.window(epoch, self.lane, number)
        self._ids, self._tokens = ids[permuted], self.reader.marked(ids)[permuted]
        self._held = (epoch, number)
        last = (number + 1) * self.order.window_length >= self.order.lane_length
        following = (epoch + 1, 0) if last else (epoch, number + 1)
        self.reader.fetch_ahead(self.order.window(following[0], self.lane, following[1])[0])
