"""Which documents of a dataset are duplicates of each other: `duplicates.parquet`, a row for each of them.

Nothing is kept in memory while documents pass; at the end it takes up to 40 bytes for each of them.
"""

import json
from collections.abc import Iterator
from itertools import compress
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..corpora.document import Document
from ..dataset.duplicates import SCHEMA

_ROWS = 65_536


class Groups:
    """add() every document, then write() once. `folder` is where they wait, in files without a name."""

    def __init__(self, folder: Path):
        self._numbers, self._names = TemporaryFile(dir=folder), TemporaryFile(dir=folder)  # noqa: SIM115
        self.documents = self.exact = self.near = self.groups = 0

    def add(self, document: Document, first: int) -> None:
        """first: the digest of the first document that this one is a duplicate of, or its own."""
        self._numbers.write(first.to_bytes(8, "little") + document.digest.to_bytes(8, "little"))
        self._names.write(json.dumps([document.id, document.source, document.split]).encode() + b"\n")
        self.documents += 1

    def write(self, path: Path) -> None:
        """Count what is a duplicate, and write it if there is any. `exact` and `near` are how many documents are so of
        an earlier one."""
        self._numbers.seek(0)
        firsts_n, digests_n = np.fromfile(self._numbers, dtype="<u8").reshape(-1, 2).T
        repeated = _repeated(firsts_n)
        self.groups = len(repeated)
        self.exact = _surplus(digests_n)
        self.near = _surplus(firsts_n) - self.exact
        if self.groups:
            groups_n = np.searchsorted(repeated, firsts_n)
            groups_n[groups_n == len(repeated)] = 0
            self._names.seek(0)
            with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
                for rows in self._rows(groups_n, repeated[groups_n] == firsts_n):
                    writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
        self._numbers.close()
        self._names.close()

    def _rows(self, groups_n: np.ndarray, chosen_n: np.ndarray) -> Iterator[list[dict]]:
        rows = []
        for group, line in zip(groups_n[chosen_n].tolist(), compress(self._names, chosen_n), strict=True):
            rows.append(dict(zip(SCHEMA.names, [group, *json.loads(line)], strict=True)))
            if len(rows) == _ROWS:
                yield rows
                rows = []
        if rows:
            yield rows


def _repeated(numbers_n: np.ndarray) -> np.ndarray:
    """The numbers that are there more than once, sorted."""
    ordered = np.sort(numbers_n)
    return np.unique(ordered[1:][ordered[1:] == ordered[:-1]])


def _surplus(numbers_n: np.ndarray) -> int:
    """How many of the numbers have been there before."""
    ordered = np.sort(numbers_n)
    return int((ordered[1:] == ordered[:-1]).sum())
