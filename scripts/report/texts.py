"""The text behind sample ids: what the samples of a run's dataset say, which documents they are made of."""

import functools
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer

from pipeline.atomic import replacing
from pipeline.dataset.duplicates import duplicates_of
from pipeline.dataset.reader import SplitReader
from scripts.train.record import RunRecord
from selection.attribution import totals
from selection.attribution.open_log import OpenLog

# Frequencies of tokens and n-grams are taken from at most this many training samples, evenly spaced.
FREQUENCY_SAMPLES = 2_000


class Texts:
    """The text and the documents of the samples of a dataset."""

    def __init__(self, folder: Path, split: str = "train"):
        self.reader = SplitReader(folder, split)
        self.manifest = self.reader.manifest
        self._tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))

    def spans(self, sample_id: int) -> list:
        """Spans (document, source, first, last) in the order of the text."""
        return self.reader.spans(sample_id)

    def parts(self, sample_id: int) -> list[np.ndarray]:
        """The tokens of every span of a sample."""
        (tokens,) = self.reader.tokens([sample_id])
        several = self.manifest.packing == "concat"  # in other packings a sample is of one document
        parts = np.split(tokens, np.flatnonzero(tokens == self.manifest.end_of_text)) if several else [tokens]
        parts = [part[part != self.manifest.end_of_text] for part in parts]
        return [part for part in parts if len(part)]

    def pieces(self, sample_id: int) -> list[str]:
        """The text of every span of a sample. A character that a sample boundary cuts through is U+FFFD."""
        return [self.decode(part.tolist()) for part in self.parts(sample_id)]

    def text(self, sample_id: int) -> str:
        """The whole text of a sample; documents are parted by an empty line."""
        return "\n\n".join(self.pieces(sample_id))

    def duplicates(self, sample_id: int) -> pa.Table:
        """The documents that have duplicates among those of a sample, with these: group, document, source, split."""
        return duplicates_of(self.manifest, {span.document for span in self.spans(sample_id)})

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


def write_picks(log: OpenLog, texts: Texts, path: Path, order: str, lowest: bool, top: int | None) -> int:
    """Writes the text that was picked as JSON Lines, the `top` samples by a column (None: all); how many lines.

    A line for each piece of a document: `text`, `source`, `id` (the document, and which of its characters), and what
    became of the sample it stands in: sample_id, document, picked (times), mean_score, contribution, null where they
    are unknown. ValueError where the file is there already.
    """
    if path.exists():
        raise ValueError(f"--export-picks {path} exists already: choose another file")
    lines = 0
    with replacing(path) as file:
        for row in totals.samples(log, order, lowest, top, picked=True).to_pylist():
            scores = {name: row[name] for name in ("sample_id", "picked", "mean_score", "contribution")}
            for span, text in zip(texts.spans(row["sample_id"]), texts.pieces(row["sample_id"]), strict=True):
                place = f"{span.document}[{span.first}:{span.last}]"
                told = {"id": place, "source": span.source, "text": text, "document": span.document} | scores
                file.write((json.dumps(told) + "\n").encode())
                lines += 1
    return lines


def open_texts(record: RunRecord, dataset: Path | None) -> Texts | None:
    """The dataset a run was trained on, by its config or, where it has been moved, at `dataset`.

    None, with a sentence in `record.problems`, if it is not there or not the same one: sample ids mean nothing
    in another dataset.
    """
    folder = dataset or Path(record.config["data"]["path"])
    try:
        texts = Texts(folder)
    except (ValueError, OSError) as error:
        record.problems.append(f"no texts: {error} (--data names a dataset that has been moved)")
        return None
    if record.facts.get("manifest_sha256") != texts.manifest.sha256:
        record.problems.append(
            f"no texts: {folder} is not the dataset of this run (the sha256 of its manifest is another one)"
        )
        return None
    return texts
