"""A run folder and the dataset behind it, opened for reading: what the report asks questions of."""

import functools
import json
import os
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.progress import track
from tokenizers import Tokenizer

from selection.attribution.open_log import OpenLog, spans_table

# Frequencies of tokens and n-grams are taken from at most this many training samples, evenly spaced.
FREQUENCY_SAMPLES = 2_000
# Samples whose spans are looked up and written at a time.
CHUNK = 16_384


@dataclass
class Run:
    """What a run folder says. `problems`: sentences on what is missing or damaged; the rest is still
    shown."""

    folder: Path
    config: dict
    training: list[dict]  # metrics.jsonl, a line per step
    evaluations: list[dict]
    problems: list[str] = field(default_factory=list)

    @property
    def method(self) -> str:
        return self.config["selection"]["method"]

    @property
    def scores(self) -> bool:
        return self.method != "regular"

    @property
    def has_prefilter(self) -> bool:
        return self.config["selection"].get("prefilter", "none") != "none"

    @property
    def name(self) -> str:
        return self.folder.name or str(self.folder.resolve().name)


def load_run(folder: Path) -> Run:
    """Read config.toml and metrics.jsonl. ValueError if the folder is no run's."""
    path = folder / "config.toml"
    if not path.is_file():
        raise ValueError(f"{folder} holds no config.toml, so it is no run folder: give the --out of a training run")
    try:
        config = tomllib.loads(path.read_text())
        run = Run(folder, config, [], [])
        run.config["selection"]["method"], run.config["data"]["path"]
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from None
    except KeyError as error:
        raise ValueError(f"{path} has no key {error}: it is not the configuration of a training run") from None
    metrics = folder / "metrics.jsonl"
    if not metrics.is_file():
        run.problems.append("there is no metrics.jsonl: losses and times are not known")
        return run
    lines = metrics.read_text().split("\n")
    for number, line in enumerate(lines, 1):
        if not line or number == len(lines):  # a line still being written has no end yet
            continue
        try:
            values = json.loads(line)
            (run.evaluations if "val_loss" in values else run.training).append(values)
        except (json.JSONDecodeError, TypeError):
            run.problems.append(f"line {number} of metrics.jsonl cannot be read and is left out")
    return run


class Texts:
    """The text and the documents of the samples of a dataset."""

    def __init__(self, folder: Path):
        from pipeline.dataset.reader import SplitReader  # here, since it loads torch, which most questions do not need

        self.reader = SplitReader(folder, split="train")
        self.manifest = self.reader.manifest
        self._tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))

    def spans(self, sample_id: int) -> list:
        """Spans (document, source, first, last) in the order of the text."""
        return self.reader.spans(sample_id)

    def pieces(self, sample_id: int) -> list[str]:
        """The text of every span of a sample. A character that a sample boundary cuts through is U+FFFD."""
        (tokens,) = self.reader.tokens([sample_id])
        ends = np.flatnonzero(tokens == self.manifest.end_of_text)
        parts = np.split(tokens, ends)
        parts = [part[part != self.manifest.end_of_text] for part in parts]
        return [self.decode(part.tolist()) for part in parts if len(part)]

    def text(self, sample_id: int) -> str:
        """The whole text of a sample; documents are parted by an empty line."""
        return "\n\n".join(self.pieces(sample_id))

    def rarity(self, sample_ids: np.ndarray) -> np.ndarray:
        """Mean bits per token of samples, under `bits`; padding and separators do not count."""
        tokens_NT = self.reader.tokens(sample_ids)
        counted_NT = tokens_NT != self.manifest.end_of_text
        bits_NT = np.where(counted_NT, self.bits[tokens_NT], 0)
        return bits_NT.sum(1) / np.maximum(counted_NT.sum(1), 1)

    def decode(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=False)

    def spread_tokens(self) -> np.ndarray:
        """[n, T1], tokens of evenly spaced training samples: enough for frequencies."""
        total = self.reader.samples
        places = np.unique(np.linspace(0, total - 1, min(total, FREQUENCY_SAMPLES)).astype(np.int64))
        return self.reader.tokens(self.manifest.sample_ids("train", places))

    @functools.cached_property
    def bits(self) -> np.ndarray:
        """-log2 of every token's probability, [V]: add-one counts over evenly spaced training samples."""
        counts = 1.0 + np.bincount(self.spread_tokens().ravel(), minlength=self.manifest.vocab_size)
        return -np.log2(counts / counts.sum())


def open_texts(run: Run, dataset: Path | None) -> Texts | None:
    """The dataset a run was trained on, by its config or, where it has been moved, at `dataset`.

    None, with a sentence in `run.problems`, if it is not there or not the same one: sample ids mean nothing
    in another dataset.
    """
    folder = dataset or Path(run.config["data"]["path"])
    try:
        texts = Texts(folder)
    except (ValueError, OSError) as error:
        run.problems.append(f"no texts: {error} (--data names a dataset that has been moved)")
        return None
    expected = run.config.get("run", {}).get("manifest_sha256")
    if expected != texts.manifest.sha256:
        run.problems.append(
            f"no texts: {folder} is not the dataset of this run (the sha256 of its manifest is another one)"
        )
        return None
    return texts


def open_log(run: Run, texts: Texts | None) -> OpenLog:
    """The selection log, with the spans of every sample in it.

    Spans are looked up once and kept in `<run>/spans`, so that later questions need not read the shards;
    what a run still going has added since is looked up then.
    """
    folder = run.folder / "spans"
    known = _readable(sorted(folder.glob("*.parquet")))
    curvature = run.config["selection"].get("curvature", 1.0)
    log = OpenLog(run.folder / "selection", spans=known, curvature=curvature)
    run.problems += [f"{path.name} is damaged and left out: {why}" for path, why in log.damaged.items()]
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


@dataclass
class Study:
    """A run, its log and, where the dataset is at hand, its texts. A context manager that closes the log."""

    run: Run
    log: OpenLog
    texts: Texts | None

    @classmethod
    def open(cls, folder: Path, dataset: Path | None) -> "Study":
        run = load_run(folder)
        texts = open_texts(run, dataset)
        return cls(run, open_log(run, texts), texts)

    def __enter__(self) -> "Study":
        return self

    def __exit__(self, *exception) -> None:
        self.log.__exit__(*exception)


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
    temporary = path.with_name(f".{path.name}.tmp")
    chunks = np.array_split(sample_ids, -(-len(sample_ids) // CHUNK))
    with pq.ParquetWriter(temporary, spans_table([]).schema, compression="zstd") as writer:
        for ids in track(chunks, "looking up documents", disable=len(chunks) < 4, transient=True):
            writer.write_table(spans_table(_described(texts, ids)))
    os.replace(temporary, path)


def _described(texts: Texts, sample_ids: np.ndarray) -> Iterator[tuple]:
    for sample_id, rarity in zip(sample_ids.tolist(), texts.rarity(sample_ids).tolist(), strict=True):
        yield sample_id, texts.spans(sample_id), rarity
