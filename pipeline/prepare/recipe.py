"""What a dataset is to be made of, and how: the options of `prepare` and their defaults."""

import os
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from ..corpora.corpus import Asked, Corpus
from ..dataset.manifest import HELD_OUT
from ..mixture.ingredients import MEASURED, TARGET, Ingredient, held_out_files, read_recipe
from ..mixture.registry import CORPORA
from ..mixture.screen import Mode
from ..mixture.splits import SplitRule

# Each of target, val and test is this share of the documents it is drawn from, until that is more text than
# anyone measures on: 6 % of a corpus of 20 MB is 1.2 MB, and of 40 GB 8 MB are taken.
_HELD_OUT_SHARE = 0.06
_HELD_OUT_CHARACTERS = 8_000_000


@dataclass(frozen=True)
class Recipe:
    """What to make a dataset of, and how."""

    corpus: Literal[tuple(CORPORA)] | None = None  # type: ignore[valid-type]
    """Where the text comes from; installed-docs is the documentation and code installed on this machine."""
    out: Path | None = None
    """The dataset folder to make."""
    data_files: tuple[str, ...] = ()
    """Paths or globs of the files of corpus json, parquet, text, instructions, mmlu, tydiqa or samsum (.gz, .bz2, .xz
    and .zst too). Of corpus webdataset also addresses, and braces: shards-{000..099}.tar."""
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
    chat_template: str | None = None
    """For conversations (instructions, mmlu, tydiqa, samsum): a tokenizer's folder, or its name on the hub, whose own
    chat template writes them; by default they are written as LESS does."""
    recipe: Path | None = None
    """A file that lists several corpora, in place of --corpus and its options: see docs/data.md."""
    target_files: tuple[str, ...] = ()
    """Files that target, val and test are made of, and the pool is not: of any corpus of files, by their names."""
    measured_files: tuple[str, ...] = ()
    """Files that val and test are made of; then the target files are split target alone, as a task's dev set is."""
    target_corpus: Literal[tuple(name for name, one in CORPORA.items() if one.of_files)] | None = None  # type: ignore[valid-type]
    """What corpus the target files and the measured files are; by default their names tell."""
    target_sources: tuple[str, ...] | None = None
    """The sources that target, val and test are drawn from (default: all; of installed-docs the prose)."""
    target_fraction: float | None = None
    """The share of those sources' documents that become split target (default: 0.06, less of a large corpus; where
    target and pool are different corpora, a third of the target's)."""
    val_fraction: float | None = None
    """The same for split val."""
    test_fraction: float | None = None
    """The same for split test."""
    duplicates: Mode = "report"
    """What becomes of documents whose text is that of an earlier one but for white space: report keeps and counts them
    and says which they are, keep does not look, drop leaves them out. The pool never keeps one that is held out too."""
    near_duplicates: float | None = None
    """Take documents for duplicates that share this part of their runs of five words (0.5 to 1; MinHash, by rensa)."""
    tokenizer: str | None = None
    """A tokenizer.json, or gpt2 for GPT-2's from the hub; by default one is trained on the train split."""
    vocab_size: int | None = None
    """The size of the tokenizer to train (default: 32768; for installed-docs 4096)."""
    seq_len: int | None = None
    """T: the tokens a model sees at once; a sample holds one more (default: 1024; for installed-docs 128)."""
    packing: Literal["concat", "document", "conversation"] | None = None
    """concat joins documents end to end; document gives each its own samples and masks the padding; conversation gives
    each conversation one sample and masks all but what the assistant says (default: concat; conversation where a corpus
    is instructions)."""
    shard_size: float = 64
    """The largest size of a shard, in MB."""
    seed: int = 0
    """Decides which documents go to which split, and the order of the samples on disk."""
    workers: int | None = None
    """Processes that encode (default: one for each core); the bytes are the same whatever their number."""

    @cached_property
    def ingredients(self) -> tuple[Ingredient, ...]:
        """The corpora it is made of. ValueError where there is none, or they are given twice."""
        asked = Asked(**{field.name: getattr(self, field.name) for field in fields(Asked)})
        if self.recipe is not None:
            given = [
                name for name in ("corpus", "target_files", "measured_files", "target_corpus") if getattr(self, name)
            ]
            given += asked.given()
            if given:
                raise ValueError(f"--recipe lists the corpora and their options: leave out {_flags(given)}")
            return read_recipe(self.recipe)
        if self.corpus is None:
            raise ValueError("--corpus is missing: it says where the text comes from (or --recipe, of several corpora)")
        if not self.target_files:
            for name in ("measured_files", "target_corpus"):
                if getattr(self, name):
                    raise ValueError(f"{_flags([name])} does nothing without --target-files: leave it out")
            return (Ingredient(self.corpus, asked),)
        files = {TARGET: self.target_files, MEASURED: self.measured_files}
        held_out = [
            held_out_files(role, named, asked, self.corpus, self.target_corpus)
            for role, named in files.items()
            if named
        ]
        if any(one.registered.conversations for one in held_out) and not CORPORA[self.corpus].conversations:
            asked = replace(asked, chat_template=None)  # it is theirs alone
        return (Ingredient(self.corpus, asked), *held_out)

    @property
    def _defaults(self) -> Corpus | type[Corpus]:
        """What holds the defaults: the corpus of the command line."""
        return Corpus if self.corpus is None else CORPORA[self.corpus]

    @property
    def sequence_length(self) -> int:
        return self._defaults.seq_len if self.seq_len is None else self.seq_len

    @property
    def packed(self) -> str:
        """The packing."""
        return self.packing or ("conversation" if self._conversations else "concat")

    @property
    def _conversations(self) -> list[Ingredient]:
        return [one for one in self.ingredients if one.registered.conversations]

    @property
    def trained_vocab_size(self) -> int:
        return self._defaults.vocab_size if self.vocab_size is None else self.vocab_size

    @property
    def processes(self) -> int:
        return len(os.sched_getaffinity(0)) if self.workers is None else self.workers

    def check(self) -> None:
        """Raise ValueError for a value that makes no dataset."""
        if self.target_sources is not None and any(one.role == TARGET for one in self.ingredients):
            raise ValueError("target, val and test are made of other corpora than the pool: leave out --target-sources")
        if self.out is None:
            raise ValueError("--out is missing: it names the dataset folder to make")
        if self.sequence_length < 1:
            raise ValueError(f"--seq-len is {self.sequence_length}; it must be at least 1")
        if self.shard_size <= 0:
            raise ValueError(f"--shard-size is {self.shard_size}; it must be above 0 (MB)")
        if self.processes < 1:
            raise ValueError(f"--workers is {self.workers}; it must be at least 1")
        if self.seed < 0:
            raise ValueError(f"--seed is {self.seed}; it must not be negative")
        if self.near_duplicates is not None and not 0.5 <= self.near_duplicates <= 1:
            raise ValueError(f"--near-duplicates is {self.near_duplicates}; it must lie between 0.5 and 1")
        if self.near_duplicates is not None and self.duplicates == "keep":
            raise ValueError(
                "--near-duplicates looks for duplicates and --duplicates keep does not: leave one of them out"
            )
        if self.tokenizer is not None and self.vocab_size is not None:
            raise ValueError("--vocab-size is for a tokenizer to be trained: leave it out, or leave out --tokenizer")
        if self.packing in ("concat", "document") and self._conversations:
            raise ValueError(
                f"--packing {self.packing} has no mask, and {self._conversations[0]} has loss on part of its text: "
                "leave --packing out"
            )

    def split_rule(self, characters: float | None = None) -> SplitRule:
        """Which documents go to which split. characters: about how many there are, by default what the corpora say.

        ValueError when there are no files, or the fractions make no sense.
        """
        given = {name: getattr(self, f"{name}_fraction") for name in HELD_OUT}
        targets, measured = (
            tuple(one.name for one in self.ingredients if one.role == role) for role in (TARGET, MEASURED)
        )
        if targets:
            dealt = HELD_OUT[1:] if measured else HELD_OUT
            if measured and self.target_fraction is not None:
                raise ValueError("all of the target corpus is split target: leave out --target-fraction")
            shares = {name: 1 / len(dealt) if given[name] is None else given[name] for name in dealt}
            whole = sum(shares.values()) if min(shares.values()) > 0 else 1.0
            shares = {TARGET: 0.0} | {name: share / whole for name, share in shares.items()}
            return SplitRule(self.seed, **shares, target_corpora=targets, measured_corpora=measured)
        if characters is None:
            characters = sum(one.characters() for one in self.ingredients)
        default = min(_HELD_OUT_SHARE, _HELD_OUT_CHARACTERS / max(characters, 1))
        shares = {name: default if share is None else share for name, share in given.items()}
        sources = self._defaults.target_sources if self.target_sources is None else self.target_sources
        return SplitRule(self.seed, **shares, target_sources=tuple(sorted(sources)))


def _flags(names: list[str]) -> str:
    return ", ".join("--" + name.replace("_", "-") for name in names)
