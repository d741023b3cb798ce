"""One tar shard of a dataset, mapped into memory and compared with the manifest.

Sample number i of a split is two members of one of its shards: `<i>.tokens.npy` and `<i>.json`.
Nothing here can run code that a dataset brings: shards are mapped and compared, never unpacked, names come from the
manifest and must be ours, and arrays are read without pickle.
Shape suffixes: N samples, T1 = T + 1 tokens (T inputs and, one to the right, T targets).
"""

import hashlib
import io
import json
import mmap
import os
from dataclasses import dataclass

import numpy as np

from .manifest import Manifest, Shard
from .tar import scan

KEY = "{:09d}"


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
        if len(members.names) != 2 * shard.samples:
            raise self._error(f"has {len(members.names) // 2} samples where the manifest says {shard.samples}")
        keys = [KEY.format(shard.first_sample + i) for i in range(shard.samples)]
        expected = [name.encode() for key in keys for name in (f"{key}.tokens.npy", f"{key}.json")]
        if (members.names != np.array(expected, dtype="S100")).any():
            raise self._error("holds other samples than the manifest says")
        self._text_starts, self._text_sizes = members.starts[1::2], members.sizes[1::2]
        self._token_starts = self._check_arrays(members.starts[::2], members.sizes[::2])
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

    def _check_arrays(self, starts_N, sizes_N) -> np.ndarray:
        """Every tokens.npy must begin with the same header, of the right type and shape. Returns where their
        tokens begin, [N] int64."""
        file = io.BytesIO(self.data[starts_N[0] : starts_N[0] + sizes_N[0]])
        try:
            first = np.lib.format.read_array(file, allow_pickle=False)
        except ValueError:
            raise self._error("holds something else than arrays of tokens") from None
        if first.shape != (self.width,) or first.dtype != self.dtype:
            raise self._error(f"holds {first.dtype} {first.shape}, not {self.dtype} ({self.width},)")
        header = int(sizes_N[0]) - first.nbytes
        blocks = np.frombuffer(self.data, dtype=np.uint8).reshape(-1, 512)
        headers = blocks[:, :header][starts_N // 512]
        if (sizes_N != sizes_N[0]).any() or (headers != headers[0]).any():
            raise self._error("holds token arrays of different types or lengths")
        return starts_N + header

    def tokens(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Copy the tokens of the samples at `rows` (numbered within this shard) into `out` [N, T+1]."""
        for row, start in enumerate(self._token_starts[rows].tolist()):
            out[row] = np.frombuffer(self.data, self.dtype, self.width, start)

    def spans(self, row: int) -> list[Span]:
        start, size = int(self._text_starts[row]), int(self._text_sizes[row])
        return [Span(**span) for span in json.loads(self.data[start : start + size])["spans"]]
