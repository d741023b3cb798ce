"""Put the samples of a split of any size into random order, in constant memory.

Corpora come sorted: by file, by source, by crawl date. The stream reads shards from front to back, so without
this the candidates of a group would all be of one kind and there would be nothing to choose between.

Every sample goes to one of 256 files by lot; then each file is read back in random order. All orders of the whole
are possible, as with a shuffle in memory. Costs the space of the split's tokens and spans on the disk, freed file
by file; memory holds the buffers (16 MB) and the positions within one file.
"""

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..permutation import LOT, PLACE, permutation
from .writer import Sample

_FILES = 256
_BUFFER = 1 << 16  # bytes gathered for a file before they are written to it
_DRAWN = 1 << 14  # lots drawn at a time
_HEAD = struct.Struct("<IIII")  # bytes of tokens, of spans and of the mask, targets


class Shuffle:
    """add() every sample, then iterate drain() once. The order depends on `seed` and the samples' number alone."""

    def __init__(self, folder: Path, seed: int):
        folder.mkdir()
        self._folder, self._seed = folder, seed
        self._buffers = [bytearray() for _ in range(_FILES)]
        self._lots = np.empty(0, dtype=np.int64)
        self.samples = 0

    def add(self, sample: Sample) -> None:
        turn, place = divmod(self.samples, _DRAWN)
        if place == 0:
            bits = np.random.PCG64(np.random.SeedSequence([self._seed, LOT, turn])).random_raw(_DRAWN)
            self._lots = bits % _FILES
        lot = int(self._lots[place])
        buffer = self._buffers[lot]
        buffer += _HEAD.pack(len(sample.tokens), len(sample.spans), len(sample.mask), sample.targets)
        buffer += sample.tokens
        buffer += sample.spans
        buffer += sample.mask
        if len(buffer) >= _BUFFER:
            self._flush(lot)
        self.samples += 1

    def drain(self) -> Iterator[Sample]:
        """All samples in random order. The files are removed on the way."""
        for lot in range(_FILES):
            self._flush(lot)
            path = self._folder / f"{lot:03d}"
            if path.stat().st_size:
                with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    yield from self._file(data, lot)
            path.unlink()
        self._folder.rmdir()

    def _flush(self, lot: int):
        with open(self._folder / f"{lot:03d}", "ab") as file:
            file.write(self._buffers[lot])
        self._buffers[lot].clear()

    def _file(self, data, lot: int) -> Iterator[Sample]:
        positions, position = [], 0
        while position < len(data):
            positions.append(position)
            tokens, spans, mask, _ = _HEAD.unpack_from(data, position)
            position += _HEAD.size + tokens + spans + mask
        for place in permutation(len(positions), self._seed, PLACE, lot):
            tokens, spans, mask, targets = _HEAD.unpack_from(data, positions[place])
            begin = positions[place] + _HEAD.size
            middle, end = begin + tokens, begin + tokens + spans
            yield Sample(data[begin:middle], data[middle:end], targets, data[end : end + mask])
