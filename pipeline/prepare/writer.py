"""Write the samples of one split into tar shards of bounded size."""

import hashlib
import io
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..dataset.manifest import Shard
from ..dataset.shards import KEY
from ..dataset.tar import END, member


class Sample(NamedTuple):
    """What becomes one sample of a shard."""

    tokens: bytes  # T + 1 tokens, little endian
    spans: bytes  # the JSON text of <key>.json
    targets: int  # how many of its T targets are no padding


class ShardWriter:
    """Writes `<split>-000000.tar`, ... of at most `shard_bytes` each (one sample fits always)."""

    def __init__(self, folder: Path, split: str, width: int, dtype: np.dtype, shard_bytes: int):
        header = io.BytesIO()
        told = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (width,)}
        np.lib.format.write_array_header_1_0(header, told)
        self._array_header = header.getvalue()
        self._folder, self._split, self._limit = folder, split, shard_bytes
        self._file = None
        self._samples = 0
        self.shards: list[Shard] = []

    def add(self, sample: Sample) -> None:
        key = KEY.format(self._samples)
        content = member(f"{key}.tokens.npy", self._array_header + sample.tokens)
        content += member(f"{key}.json", sample.spans)
        if self._file and self._bytes + len(content) + len(END) > self._limit:
            self._finish_shard()
        if not self._file:
            self._start_shard()
        self._write(content)
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
        self._first, self._bytes, self._tokens = self._samples, 0, 0

    def _write(self, content: bytes):
        self._file.write(content)
        self._hash.update(content)
        self._bytes += len(content)

    def _finish_shard(self):
        self._write(END)
        # The manifest vouches for these bytes, so they must be on the disk before it is.
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        samples = self._samples - self._first
        digest = self._hash.hexdigest()
        self.shards.append(Shard(self._name, samples, self._tokens, self._bytes, digest, self._first))
