"""What a dataset is to be made of, and how: the options of `prepare` and their defaults."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from ..corpora.corpus import Asked, Corpus
from ..corpora.document import Document
from ..corpora.registry import CORPORA, estimated_characters, read_corpus
from ..dataset.manifest import HELD_OUT
from .splits import SplitRule

# Each of target, val and test is this share of the documents it is drawn from, until that is more text than
# anyone measures on: 6 % of a corpus of 20 MB is 1.2 MB, and of 40 GB 8 MB are taken.
_HELD_OUT_SHARE = 0.06
_HELD_OUT_CHARACTERS = 8_000_000


@dataclass(frozen=True)
class Recipe:
    """What to make a dataset of, and how."""

    corpus: Literal[tuple(CORPORA)]  # type: ignore[valid-type]
    """Where the text comes from; installed-docs is the documentation and code installed on this machine."""
    out: Path
    """The dataset folder to make."""
    data_files: tuple[str, ...] = ()
    """Paths or globs of the files of corpus json, parquet or text (.gz, .bz2, .xz and .zst too). Of corpus webdataset
    also addresses, and braces: shards-{000..099}.tar."""
    pipe: bool = False
    """Allow data files that run a shell command, as 'pipe:aws s3 cp s3://bucket/shards-{000..099}.tar -'."""
    dataset: str | None = None
    """The dataset of corpus hub: a name on the hub as owner/name, or a folder of data files."""
    subset: str | None = None
    """Its subset, where it has several."""
    split: str = "train"
    """The one of its splits that is read."""
    revision: str | None = None
    """Its revision (of openwebtext too): a branch, tag or commit of the hub."""
    text_field: str = "text"
    """The field of a record (json, parquet, hub, webdataset) that holds the text."""
    source_field: str | None = None
    """The field that names a document's source; by default the source is the file's name without suffixes."""
    id_field: str | None = None
    """The field that identifies a document; by default it is '<file>:<running number>'."""
    target_sources: tuple[str, ...] | None = None
    """The sources that target, val and test are drawn from (default: all; of installed-docs the prose)."""
    target_fraction: float | None = None
    """The share of those sources' documents that become split target (default: 0.06, less of a large corpus)."""
    val_fraction: float | None = None
    """The same for split val."""
    test_fraction: float | None = None
    """The same for split test."""
    tokenizer: str | None = None
    """A tokenizer.json, or gpt2 for GPT-2's from the hub; by default one is trained on the train split."""
    vocab_size: int | None = None
    """The size of the tokenizer to train (default: 32768; for installed-docs 4096)."""
    seq_len: int | None = None
    """T: the tokens a model sees at once; a sample holds one more (default: 1024; for installed-docs 128)."""
    packing: Literal["concat", "document"] = "concat"
    """concat joins documents end to end; document gives each its own samples and masks the padding."""
    shard_size: float = 64
    """The largest size of a shard, in MB."""
    seed: int = 0
    """Decides which documents go to which split, and the order of the samples on disk."""

    @property
    def source_of_text(self) -> Corpus:
        return CORPORA[self.corpus]

    @property
    def sequence_length(self) -> int:
        return self.source_of_text.seq_len if self.seq_len is None else self.seq_len

    @property
    def trained_vocab_size(self) -> int:
        return self.source_of_text.vocab_size if self.vocab_size is None else self.vocab_size

    def documents(self) -> Iterator[Document]:
        return read_corpus(self.corpus, **self._asked)

    def characters(self) -> int:
        """Roughly how many characters of text there are."""
        return estimated_characters(self.corpus, **self._asked)

    @property
    def _asked(self) -> dict:
        return {field.name: getattr(self, field.name) for field in fields(Asked)}

    def check(self) -> None:
        """Raise ValueError for a value that makes no dataset."""
        if self.sequence_length < 1:
            raise ValueError(f"--seq-len is {self.sequence_length}; it must be at least 1")
        if self.shard_size <= 0:
            raise ValueError(f"--shard-size is {self.shard_size}; it must be above 0 (MB)")
        if self.seed < 0:
            raise ValueError(f"--seed is {self.seed}; it must not be negative")
        if self.tokenizer is not None and self.vocab_size is not None:
            raise ValueError("--vocab-size is for a tokenizer to be trained: leave it out, or leave out --tokenizer")

    def split_rule(self) -> SplitRule:
        """Which documents go to which split. ValueError when there are no files, or the fractions make no sense."""
        share = min(_HELD_OUT_SHARE, _HELD_OUT_CHARACTERS / max(self.characters(), 1))
        shares = {
            name: share if getattr(self, f"{name}_fraction") is None else getattr(self, f"{name}_fraction")
            for name in HELD_OUT
        }
        sources = self.source_of_text.target_sources if self.target_sources is None else self.target_sources
        return SplitRule(self.seed, **shares, target_sources=tuple(sorted(sources)))
