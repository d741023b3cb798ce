"""What a dataset holds: its splits and sources, how long its documents are, how its tokenizer does, some of its text.

Counts stand in the manifest. What is said of the tokenizer is measured on at most READ evenly spaced samples of each
split.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import tyro
from markupsafe import Markup
from rich.console import Console

from pipeline.atomic import write_whole
from pipeline.dataset.manifest import SPLITS, Manifest
from pipeline.dataset.sampling import evaluation_samples
from scripts.prepare.duplicates import sentences
from scripts.report import figures
from scripts.report.format import Answer, print_answers
from scripts.report.html import render
from scripts.report.texts import Texts

READ = 500
_BAR = 30  # columns of the longest bar


@dataclass(frozen=True)
class Inspect:
    """Tell what a dataset folder holds."""

    path: tyro.conf.Positional[Path]
    """The dataset folder."""
    samples: int = 2
    """Samples of each split that are shown as text."""
    html: bool = False
    """Also write <path>/inspect.html, one page that needs nothing else."""


@dataclass
class _Measured:
    """What the samples that were read say of one source."""

    spans: int = 0
    tokens: int = 0
    words: int = 0
    characters: int = 0


def look(options: Inspect) -> list[Answer]:
    """The answers, in the order that they are shown in. ValueError for a folder that is no dataset, or no samples."""
    if options.samples < 0:
        raise ValueError(f"--samples is {options.samples}; it must not be negative")
    manifest = Manifest.load(options.path)
    texts = {split: Texts(options.path, split) for split in SPLITS}
    return [
        _splits(manifest),
        _sources(manifest),
        _lengths(manifest),
        _fertility(texts),
        *_shown(texts, options.samples),
    ]


def inspect(options: Inspect, console: Console) -> None:
    """Prints the answers, and writes the page where it is asked for."""
    answers = look(options)
    print_answers(answers, console)
    if options.html:
        path = options.path / "inspect.html"
        write_whole(path, _page(options.path, answers))
        console.print(f"{path} is written", soft_wrap=True)


def _page(folder: Path, answers: list[Answer]) -> str:
    by_name = {answer.name: answer for answer in answers}
    bins = by_name["lengths"].table
    return render(
        "inspect.html.j2",
        name=str(folder),
        tables=[by_name[name] for name in ("splits", "sources", "fertility")],
        lengths=Markup(figures.lengths(bins, SPLITS)) if bins.num_rows else None,
        samples=[answer for answer in answers if answer.whole_text],
    )


def _splits(manifest: Manifest) -> Answer:
    rows = []
    for split in SPLITS:
        counts, shards = manifest.sources[split].values(), manifest.shards[split]
        targets = manifest.samples(split) * manifest.sequence_length
        rows.append(
            {
                "split": split,
                "documents": sum(one["documents"] for one in counts),
                "tokens": sum(one["tokens"] for one in counts),
                "samples": manifest.samples(split),
                "shards": len(shards),
                "MB": sum(shard.bytes for shard in shards) / 1e6,
                "padding_share": 1 - sum(shard.tokens for shard in shards) / targets,
            }
        )
    note = f"Samples of {manifest.sequence_length} + 1 tokens, packing {manifest.packing}, "
    note += f"a tokenizer of {manifest.vocab_size:,}; manifest {manifest.sha256[:12]}."
    note = "\n".join([note, *sentences(manifest)])
    return Answer("splits", f"{manifest.folder}", pa.Table.from_pylist(rows), note=note)


def _sources(manifest: Manifest) -> Answer:
    rows = []
    for split in SPLITS:
        total = sum(one["tokens"] for one in manifest.sources[split].values())
        for source, one in sorted(manifest.sources[split].items(), key=lambda item: -item[1]["tokens"]):
            share = one["tokens"] / max(total, 1)
            rows.append({"split": split, "source": source, **one, "share": share})
    return Answer("sources", "Sources", pa.Table.from_pylist(rows), note="share: of the split's tokens.")


def _lengths(manifest: Manifest) -> Answer:
    """Documents by their tokens, in powers of two."""
    counts = {split: manifest.document_tokens[split] for split in SPLITS}
    bins = range(max(map(len, counts.values())))
    most = max((sum(told[i] for told in counts.values() if i < len(told)) for i in bins), default=1)
    rows = []
    for i in bins:
        found = {split: told[i] if i < len(told) else 0 for split, told in counts.items()}
        bar = "█" * -(-sum(found.values()) * _BAR // max(most, 1))
        rows.append({"tokens_from": 1 << i, "tokens_to": (2 << i) - 1, **found, "all_splits": bar})
    schema = pa.schema([("tokens_from", pa.int64()), ("tokens_to", pa.int64())])
    schema = pa.schema([*schema, *((split, pa.int64()) for split in SPLITS), ("all_splits", pa.string())])
    note = "" if rows else "The manifest does not tell: it is older than this count."
    return Answer("lengths", "Documents by their tokens", pa.Table.from_pylist(rows, schema), note=note)


def _fertility(texts: dict[str, Texts]) -> Answer:
    measured: dict[str, _Measured] = {}
    for one in texts.values():
        for sample in _spaced(one, READ):
            for span, tokens, text in _pieces(one, sample):
                found = measured.setdefault(span.source, _Measured())
                found.spans += 1
                found.tokens += tokens
                found.words += len(text.split())
                found.characters += len(text)
    rows = [
        {
            "source": source,
            "spans": found.spans,
            "tokens": found.tokens,
            "tokens_a_word": found.tokens / max(found.words, 1),
            "characters_a_token": found.characters / max(found.tokens, 1),
        }
        for source, found in sorted(measured.items(), key=lambda item: -item[1].tokens)
    ]
    note = f"Measured on at most {READ} evenly spaced samples of each split. A word is what stands between blanks."
    return Answer("fertility", "The tokenizer, by source", pa.Table.from_pylist(rows), note=note)


def _shown(texts: dict[str, Texts], samples: int) -> Iterator[Answer]:
    for split, one in texts.items():
        for sample in _spaced(one, samples):
            spans = ", ".join(f"{s.document} ({s.source}, {s.first}-{s.last})" for s in one.spans(sample))
            table = pa.table({"sample_id": [sample], "made_of": [spans], "text": [one.text(sample)]})
            yield Answer(f"{split}_{sample}", f"Sample {sample} of {split}", table, whole_text=True)


def _spaced(texts: Texts, n: int) -> list[int]:
    return evaluation_samples(texts.manifest, texts.reader.split, n).tolist()


def _pieces(texts: Texts, sample: int) -> Iterator[tuple]:
    """Every span of a sample with its tokens and text. A character that a sample boundary cuts through is U+FFFD."""
    parts = texts.parts(sample)
    for span, part in zip(texts.spans(sample), parts, strict=True):
        yield span, len(part), texts.decode(part.tolist())
