"""Writes one rank's rows of the selection log.

Shapes: N candidates in one group.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .reader import first_line
from .schema import DROPPED, QUANTITIES, REJECTED, SCHEMA

# A file is rewritten at every flush until it holds this many rows: more make fewer files and dearer flushes.
FILE_ROWS = 65_536

# Runs of equal or slowly rising integers shrink to almost nothing as packed differences, few-valued columns
# as dictionaries. Of a score only sign and exponent compress, so its four bytes are stored as four streams.
_ENCODING = {
    "step": "DELTA_BINARY_PACKED",
    "group": "DELTA_BINARY_PACKED",
    "sample_id": "DELTA_BINARY_PACKED",
    **dict.fromkeys(QUANTITIES, "BYTE_STREAM_SPLIT"),
}
_DICTIONARY = ["rank", "pick", "learning_rate"]


class SelectionLog:
    """Writer of one rank's rows. `folder` is `<run>/selection`; it is made if it is not there.

    `flush_every`: steps after which the rows so far are written; always whole steps, and of every rank after another
    step, so that they do not all write at once. Call `flush` before a
    checkpoint is declared complete, so that a resume from it finds every row before its step.
    """

    def __init__(self, folder: Path, rank: int, flush_every: int = 100):
        if flush_every < 1:
            raise ValueError(f"flush_every is {flush_every}; it must be at least 1 step")
        self.folder = Path(folder)
        self.rank = rank
        self.flush_every = flush_every
        self.folder.mkdir(parents=True, exist_ok=True)
        self._pending: list[_Group] = []
        self._last_step = None
        self._written = SCHEMA.empty_table()  # the rows of the current file
        self._path = None

    def append(
        self,
        step: int,
        group: int,
        sample_ids_N,
        picks: Sequence[int],
        *,
        learning_rate: float,
        measured: Sequence[int] | None = None,
        loss=None,
        first_order=None,
        interaction=None,
        self_norm=None,
        predicted=None,
        score=None,
        by_prediction: bool = False,
        order: Sequence[int] | None = None,
    ) -> None:
        """Add the N candidates of one group, in the order they were drawn.

        `sample_ids_N`: int64 array or tensor [N]; `picks`: positions in the group (0..N-1) in the order of being
        picked, -1 for one that could not be made; `order`: their places in it, where other groups have a part in it.
        `measured`: positions [M] of those that came before the model, where not all did or in another order; the
        others are logged as dropped, and of the quantities all but `predicted` are then of these M, in that order.
        Every quantity is a float array or tensor [N], or None where it was not measured (null in the log).
        by_prediction: the method ranked all N by `predicted`, which then is their score, and dropped none. Tensors on
        a device are on their way from now on, so appending never waits for it, and a flush hardly. Raises ValueError
        on a length that is not N (or M) or a step earlier than the last one; a pick that is no position, or comes
        twice, is found at the flush.
        """
        if self._last_step is not None and step < self._last_step:
            raise ValueError(f"step {step} logged after step {self._last_step}: rows must be logged in step order")
        given = (loss, first_order, interaction, self_norm, predicted, score)
        quantities = dict(zip(QUANTITIES, given, strict=True))
        drawn = len(sample_ids_N)
        reached = drawn if measured is None else len(measured)
        for name, values in quantities.items():
            expected = drawn if name == "predicted" else reached
            if values is not None and tuple(values.shape) != (expected,):
                raise ValueError(
                    f"{name} of step {step}, group {group} has shape {tuple(values.shape)}, "
                    f"but the group has {expected} candidates{' that were measured' * (expected < drawn)}"
                )
        if step != self._last_step:
            if (step + self.rank) % self.flush_every == 0:
                self.flush()
            self._last_step = step
        kept = {name: _keep(values) for name, values in quantities.items() if values is not None}
        places = None if measured is None else np.array(measured, dtype=np.int64)
        ids, positions, ordered = _keep(sample_ids_N), _keep(picks), None if order is None else _keep(order)
        self._pending.append(_Group(step, group, ids, positions, ordered, places, learning_rate, kept, by_prediction))

    def flush(self) -> None:
        """Write every row appended so far. Does nothing when there is none that is not on disk."""
        if not self._pending:
            return
        rows = pa.concat_tables([self._written, _to_table(self._pending, self.rank)])
        if self._path is None:
            self._path = self.folder / f"{rows['step'][0].as_py():09d}-rank{self.rank:05d}.parquet"
            if self._path.exists():
                raise ValueError(
                    f"{self._path} exists already: drop the rows of steps that are run again "
                    f"(SelectionLog.drop_from) before logging them"
                )
        _write(rows, self._path)
        self._pending = []
        full = rows.num_rows >= FILE_ROWS
        self._written, self._path = (SCHEMA.empty_table(), None) if full else (rows, self._path)

    def close(self) -> None:
        """Write what is not yet on disk."""
        self.flush()

    @staticmethod
    def drop_from(folder: Path, step: int, rank: int = 0, ranks: int = 1) -> None:
        """Drop every row of step `step` or later, of every rank, and temporary files a crash left behind.

        For a resume from step `step`, before any rank logs: one process calls it, or each of `ranks` does, for its
        share of the files. It may be interrupted and called again: each file is replaced or removed as a whole. Raises
        ValueError naming a file that cannot be read.
        """
        folder = Path(folder)
        for leftover in folder.glob("*.tmp"):
            if _writer_of(leftover) % ranks == rank:
                leftover.unlink()
        for path in sorted(path for path in folder.glob("*.parquet") if _writer_of(path) % ranks == rank):
            try:
                rows = pq.read_table(path, page_checksum_verification=True) if _reaches(path, step) else None
            except (OSError, pa.ArrowException) as error:
                raise ValueError(
                    f"selection log file {path} cannot be read ({first_line(error)}): move it away"
                ) from error
            if rows is None:
                continue
            kept = rows.filter(pc.less(rows["step"], step))
            if kept.num_rows:
                _write(kept, path)
            else:
                path.unlink()


@dataclass
class _Group:
    step: int
    group: int
    sample_ids: object
    picks: object
    order: object
    measured: np.ndarray | None  # positions, where not all were
    learning_rate: float
    quantities: dict[str, object]
    by_prediction: bool


def _keep(values):
    """A private copy: the caller may reuse its buffers."""
    if not hasattr(values, "detach"):
        return np.array(values)
    from .arriving import Arriving  # only where tensors are logged: a reader of the log need not load torch

    return Arriving(values)


def _to_numpy(parts: list) -> np.ndarray:
    """One array of all parts."""
    return np.concatenate([_on_host(part) for part in parts])


def _on_host(part) -> np.ndarray:
    if isinstance(part, np.ndarray):
        return part
    values = part.values()
    return (values.float() if values.is_floating_point() else values).numpy()


def _to_table(groups: list[_Group], rank: int) -> pa.Table:
    sizes = [group.sample_ids.shape[0] for group in groups]

    def repeat(values, dtype):
        return np.repeat(np.array(values, dtype=dtype), sizes)

    picks = [_pick_column(group, size) for group, size in zip(groups, sizes, strict=True)]
    columns = {
        "step": repeat([group.step for group in groups], np.int32),
        "group": repeat([group.group for group in groups], np.int32),
        "rank": repeat([rank] * len(groups), np.int16),
        "sample_id": _to_numpy([group.sample_ids for group in groups]).astype(np.int64),
        "pick": np.concatenate(picks),
        "learning_rate": repeat([group.learning_rate for group in groups], np.float32),
    }
    firsts = np.cumsum(sizes) - sizes
    for name in QUANTITIES:
        having = [
            (_source(group, name), group, first)
            for group, first in zip(groups, firsts, strict=True)
            if _source(group, name) in group.quantities
        ]
        values, known = np.zeros(sum(sizes), dtype=np.float32), np.zeros(sum(sizes), dtype=bool)
        if having:
            rows = np.concatenate([first + _positions(group, source) for source, group, first in having])
            values[rows], known[rows] = _to_numpy([group.quantities[source] for source, group, _ in having]), True
        columns[name] = pa.array(values, mask=~known)
    return pa.table({name: columns[name] for name in SCHEMA.names}, schema=SCHEMA)


def _source(group: _Group, name: str) -> str:
    """The quantity that a column is filled from."""
    return "predicted" if name == "score" and group.by_prediction else name


def _positions(group: _Group, name: str) -> np.ndarray:
    """The positions in its group that a quantity is of."""
    everything = name == "predicted" or group.measured is None
    return np.arange(group.sample_ids.shape[0]) if everything else group.measured


def _pick_column(group: _Group, size: int) -> np.ndarray:
    competed = group.measured is None or group.by_prediction
    column = np.full(size, REJECTED if competed else DROPPED, dtype=np.int16)
    if not competed:
        column[group.measured] = REJECTED
    picks = _on_host(group.picks).astype(np.int64)
    picks = picks[picks != -1]
    if len(set(picks.tolist())) < len(picks) or (len(picks) and not 0 <= picks.min() <= picks.max() < size):
        raise ValueError(
            f"picks {picks.tolist()} of step {group.step}, group {group.group} are not distinct positions "
            f"among its {size} candidates"
        )
    column[picks] = np.arange(len(picks)) if group.order is None else _on_host(group.order)
    return column


def _writer_of(path: Path) -> int:
    """The rank in a log file's name; 0 where there is none."""
    found = re.search(r"-rank(\d+)\.parquet", path.name)
    return int(found[1]) if found else 0


def _reaches(path: Path, step: int) -> bool:
    """Whether any row of the file is of step `step` or later, by the statistics of its footer."""
    metadata = pq.read_metadata(path)
    if metadata.schema.to_arrow_schema().names != SCHEMA.names:
        raise pa.ArrowInvalid("its columns are not those of a selection log")
    column = SCHEMA.get_field_index("step")
    return any(metadata.row_group(i).column(column).statistics.max >= step for i in range(metadata.num_row_groups))


def _write(rows: pa.Table, path: Path) -> None:
    # Parquet readers skip names that begin with a dot when they open a folder. (pipeline/atomic.py writes as this does,
    # but no package imports another: a log is of use without our pipeline.)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            pq.write_table(
                rows,
                file,
                compression="zstd",
                use_dictionary=_DICTIONARY,
                column_encoding=_ENCODING,
                write_statistics=["step", "group", "sample_id"],
                write_page_checksum=True,
            )
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise ValueError(
            f"selection log file {path} cannot be written ({first_line(error)}); what it held before is whole"
        ) from error
