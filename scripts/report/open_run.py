"""A run folder and the dataset behind it, opened for reading: what the report asks questions of."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.progress import track

from pipeline.atomic import replacing
from scripts.report.texts import Texts, open_texts
from scripts.train.record import RunRecord, read_run
from selection.attribution.open_log import OpenLog, spans_table
from selection.methods import METHODS, Method
from selection.settings import Selection

# Samples whose spans are looked up and written at a time.
CHUNK = 16_384


@dataclass
class OpenRun:
    """A run, its log and, where the dataset is at hand, its texts. A context manager that closes the log."""

    record: RunRecord
    log: OpenLog
    texts: Texts | None

    @classmethod
    def open(cls, folder: Path, dataset: Path | None) -> "OpenRun":
        record = read_run(folder)
        texts = open_texts(record, dataset)
        return cls(record, open_log(record, texts), texts)

    def __enter__(self) -> "OpenRun":
        return self

    def __exit__(self, *exception) -> None:
        self.log.__exit__(*exception)

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def selection(self) -> Selection:
        return self.record.settings.selection

    @property
    def method(self) -> type[Method]:
        return METHODS[self.selection.method]


def open_log(record: RunRecord, texts: Texts | None) -> OpenLog:
    """The selection log, with the spans of every sample in it.

    Spans are looked up once and kept in `<run>/spans`, so that later questions need not read the shards;
    what a run still going has added since is looked up then.
    """
    folder = record.folder / "spans"
    known = _readable(sorted(folder.glob("*.parquet")))
    curvature = record.settings.selection.interaction.curvature
    log = OpenLog(record.folder / "selection", spans=known, curvature=curvature)
    record.problems += [f"{path.name} is damaged and left out: {why}" for path, why in log.damaged.items()]
    if texts is None:
        return log
    missing = log.ask("SELECT DISTINCT sample_id FROM rows_as_logged ANTI JOIN spans USING (sample_id)")
    if missing.num_rows:
        ids = np.sort(missing["sample_id"].to_numpy())
        path = folder / f"{int(known[-1].stem) + 1 if known else 0:06d}.parquet"
        try:
            _write_spans(texts, ids, path)
        except OSError as error:
            raise ValueError(
                f"cannot write {path} ({error.strerror}): a report keeps there which documents the samples are made "
                "of, so copy the run folder to where you may write"
            ) from error
        log.define("spans", [*known, path])
    return log


def _readable(paths: list[Path]) -> list[Path]:
    """Those that can be read; the others are deleted, to be looked up again."""
    for path in paths:
        try:
            pq.read_metadata(path)
        except pa.ArrowInvalid:
            path.unlink()
    return [path for path in paths if path.exists()]


def _write_spans(texts: Texts, sample_ids: np.ndarray, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    chunks = np.array_split(sample_ids, -(-len(sample_ids) // CHUNK))
    with replacing(path) as file, pq.ParquetWriter(file, spans_table([]).schema, compression="zstd") as writer:
        for ids in track(chunks, "looking up documents", disable=len(chunks) < 4, transient=True):
            writer.write_table(spans_table(_described(texts, ids)))


def _described(texts: Texts, sample_ids: np.ndarray) -> Iterator[tuple]:
    for sample_id, rarity in zip(sample_ids.tolist(), texts.rarity(sample_ids).tolist(), strict=True):
        yield sample_id, texts.spans(sample_id), rarity
