"""One tar shard of a dataset, mapped into memory and compared with the manifest.

A shard is a row of blocks of samples (block.py), all full but the last. Nothing here can run code that a dataset
brings: shards are mapped and compared, never unpacked, names come from the manifest and must be ours, and an array
must begin with the very bytes that ours begin with.
Shape suffixes: N samples, B samples of a block, T1 = T + 1 tokens (T inputs and, one to the right, T targets).
"""

import hashlib
import io
import mmap
import os
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from . import block
from .manifest import Manifest, Shard
from .tar import Members, scan


@dataclass(frozen=True)
class Span:
    """A stretch of a sample: the characters [first, last) of the text of `document`."""

    document: str
    source: str
    first: int
    last: int


class OpenShard:
    """One shard, mapped into memory, its members found and compared with the manifest.

    Raises ValueError naming the shard when it is missing, cut, damaged or not the one of the manifest. The bytes are
    compared with the manifest's sha256, unless this is still the file that `trusted` is the signature of.
    """

    def __init__(self, manifest: Manifest, shard: Shard, trusted: tuple | None = None):
        self.manifest = manifest
        self.path = manifest.folder / shard.name
        self.width = manifest.sequence_length + 1
        self.dtype = manifest.dtype
        with self._open(shard) as file:
            found = os.fstat(file.fileno())
            self.signature = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
            if found.st_size != shard.bytes:
                raise self._error(f"has {found.st_size} bytes where the manifest says {shard.bytes}")
            self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            members = scan(self.data)
        except ValueError as error:
            raise self._error(str(error)) from None
        self._tokens, self._masks = self._check_blocks(members, shard)
        files = len(block.file_names(0, manifest.masked))
        self._text_starts, self._text_sizes = members.starts[files - 1 :: files], members.sizes[files - 1 :: files]
        # After the cheaper checks, which say more precisely what is wrong. 64 MB take 40 ms.
        if self.signature != trusted and hashlib.sha256(self.data).hexdigest() != shard.sha256:
            raise self._error("has other bytes than it was written with (its sha256 differs)")

    def _open(self, shard: Shard) -> io.BufferedReader:
        mirror = self.manifest.mirror
        if mirror:
            return mirror.shard(self.manifest.folder, shard.name, shard.bytes, shard.sha256)
        try:
            return open(self.path, "rb")
        except FileNotFoundError:
            raise self._error("is missing") from None
        except OSError as error:
            raise self._error(f"cannot be read ({error.strerror})") from error

    def _error(self, what: str) -> ValueError:
        if self.manifest.mirror:
            return ValueError(
                f"shard {self.path}, a copy from {self.manifest.mirror}, {what}: remove it and it is fetched again"
            )
        return ValueError(
            f"shard {self.path} {what}: restore it or prepare the dataset again; 'python -m scripts.prepare verify "
            f"{self.path.parent}' checks every shard, and with --drop goes on without the broken ones"
        )

    def _check_blocks(self, members: Members, shard: Shard) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The tokens and the masks of every block, each [B, T+1], mapped; where there are no masks none. The members
        must be those of the samples of the manifest."""
        firsts, masked = range(0, shard.samples, block.SAMPLES), self.manifest.masked
        names = [block.file_names(shard.first_sample + first, masked) for first in firsts]
        if members.names.tolist() != [name.encode() for of_block in names for name in of_block]:
            raise self._error("holds other samples than the manifest says")
        found = [], []
        for number, (first, files) in enumerate(zip(firsts, names, strict=True)):
            shape = (min(block.SAMPLES, shard.samples - first), self.width)
            for place, (arrays, dtype) in enumerate(zip(found, (self.dtype, block.MASK)[: 1 + masked], strict=False)):
                at = len(files) * number + place
                arrays.append(self._array(members, at, shape, dtype, files[place]))
        return found

    def _array(self, members: Members, at: int, shape: tuple[int, int], dtype: np.dtype, name: str) -> np.ndarray:
        header = block.array_header(dtype, *shape)
        start, size = int(members.starts[at]), int(members.sizes[at])
        begin, count = start + len(header), shape[0] * shape[1]
        if self.data[start:begin] != header or size != len(header) + count * dtype.itemsize:
            told = f"{shape[0]} samples of {shape[1]} {dtype.name} tokens"
            raise self._error(f"holds something else than {told} in {name}")
        return np.frombuffer(self.data, dtype, count, begin).reshape(shape)

    def tokens(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Copy the tokens of the samples at `rows` (numbered within this shard) into `out` [N, T+1]."""
        self._copy(self._tokens, rows, out)

    def mask(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Copy the masks of these samples into `out` [N, T+1]."""
        self._copy(self._masks, rows, out)

    @staticmethod
    def _copy(arrays: list[np.ndarray], rows: np.ndarray, out: np.ndarray) -> None:
        blocks_N, places_N = np.divmod(rows, block.SAMPLES)
        edges = [0, *(np.flatnonzero(np.diff(blocks_N)) + 1).tolist(), len(rows)]
        for begin, end in pairwise(edges):
            out[begin:end] = arrays[blocks_N[begin]][places_N[begin:end]]

    def spans(self, row: int) -> list[Span]:
        number, place = divmod(row, block.SAMPLES)
        start, size = int(self._text_starts[number]), int(self._text_sizes[number])
        return [Span(**span) for span in block.spans_of(self.data[start : start + size], place)]
