"""Write the samples of one split into tar shards of bounded size."""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..dataset import block
from ..dataset.manifest import Shard
from ..dataset.tar import END


class Sample(NamedTuple):
    """What becomes one sample of a shard."""

    tokens: bytes  # T + 1 tokens, little endian
    spans: bytes  # the JSON text of their list
    targets: int  # how many of its T targets are no padding
    mask: bytes = b""  # in packing `conversation`, which of its T + 1 tokens are targets: a byte each, 1 or 0


class ShardWriter:
    """Writes `<split>-000000.tar`, ... of at most `shard_bytes` each (one sample fits always)."""

    def __init__(self, folder: Path, split: str, dtype: np.dtype, shard_bytes: int):
        self._folder, self._split, self._dtype, self._limit = folder, split, dtype, shard_bytes
        self._file = None
        self._samples = 0
        self._block: list[Sample] = []
        self.shards: list[Shard] = []

    def add(self, sample: Sample) -> None:
        if len(self._block) == block.SAMPLES:
            self._write_block()
        if self._file and self._bytes + self._block_bytes(sample) + len(END) > self._limit:
            self._finish_shard()
        if not self._file:
            self._start_shard()
        self._block.append(sample)
        self._span_bytes += len(sample.spans)
        self._tokens += sample.targets
        self._samples += 1

    def close(self) -> list[Shard]:
        """Finish the last shard; returns all of them."""
        if self._file:
            self._finish_shard()
        return self.shards

    def _start_shard(self):
        self._name = f"{self._split}-{len(self.shards):06d}.tar"
        self._file = open(self._folder / self._name, "xb", buffering=1 << 20)  # noqa: SIM115
        self._hash = hashlib.sha256()
        self._first, self._bytes, self._tokens, self._span_bytes = self._samples, 0, 0, 0

    def _block_bytes(self, sample: Sample) -> int:
        """What the open block takes with this sample in it."""
        samples = len(self._block) + 1
        spans = self._span_bytes + len(sample.spans)
        return block.bytes_of(samples, samples * len(sample.tokens), spans, samples * len(sample.mask))

    def _write_block(self):
        if self._block:
            tokens, spans, _, masks = zip(*self._block, strict=True)
            masks = masks if masks[0] else ()
            self._write(block.files(self._samples - len(self._block), tokens, spans, self._dtype, masks))
            self._block, self._span_bytes = [], 0

    def _write(self, content: bytes):
        self._file.write(content)
        self._hash.update(content)
        self._bytes += len(content)

    def _finish_shard(self):
        self._write_block()
        self._write(END)
        # The manifest vouches for these bytes, so they must be on the disk before it is.
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        samples = self._samples - self._first
        digest = self._hash.hexdigest()
        self.shards.append(Shard(self._name, samples, self._tokens, self._bytes, digest, self._first))
