"""From a corpus to a finished dataset folder.

At most two passes over the documents: one that trains the tokenizer (when none is given), one that encodes and
packs. The train split's samples then go to the shards in random order. Everything is written into
`<out>.partial`, the manifest last, and the folder is renamed when it is whole.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from ..dataset.manifest import FORMAT, SPLITS, Manifest
from .pack import PACKERS
from .recipe import Recipe
from .shuffle import Shuffle
from .splits import SplitRule, fraction
from .tokenizer import (
    END_OF_TEXT,
    Encoded,
    encode_documents,
    load_tokenizer,
    train_tokenizer,
    vocabulary_size,
)
from .writer import ShardWriter

# A tokenizer learns from about this much text, spread over the whole corpus.
_TOKENIZER_CHARACTERS = 50_000_000

# The manifest counts so many sources of a split by name and the others together: it stays small whatever a source
# field holds.
_SOURCES = 200
_OTHER_SOURCES = "(other sources)"

# (what is being done, the things it is done to, how many there are if known) -> the same things, watched
Watch = Callable[[str, Iterable, int | None], Iterator]


def prepare(recipe: Recipe, watch: Watch = lambda what, things, total: iter(things)) -> Manifest:
    """Make the dataset that `recipe` describes; returns its manifest, read back from the finished folder.

    The same documents and recipe give the same bytes. `watch` may show the progress of what passes through it.
    Raises ValueError, and leaves nothing behind, for a recipe or corpus that gives no dataset.
    """
    recipe.check()
    with _new_folder(recipe.out) as folder:
        rule = recipe.split_rule()
        total = recipe.source_of_text.documents
        if recipe.tokenizer is None:
            texts = _TokenizerTexts(recipe, rule, watch, total)
            tokenizer = train_tokenizer(texts, recipe.trained_vocab_size)
            total = texts.documents or total
        else:
            tokenizer = load_tokenizer(recipe.tokenizer)
        dataset = _Dataset(recipe, rule, tokenizer, folder)
        documents = watch("encoding documents", recipe.documents(), total)
        for encoded in encode_documents(tokenizer, (document for document in documents if document.text)):
            dataset.add(encoded)
        dataset.finish(watch)
    return Manifest.load(recipe.out)


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """`<out>.partial`, empty and ours alone; renamed to `out` at the end, removed when anything goes wrong.

    What an interrupted run left in it is removed first. A run that is still going on holds a lock on it.
    """
    if (out / "manifest.json").exists():
        raise ValueError(f"--out {out} is a finished dataset: remove it or choose another folder")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ValueError(f"--out {out} exists and is no empty folder: choose another one")
    partial = out.with_name(out.name + ".partial")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        lock = os.open(partial, os.O_RDONLY)
    except OSError as error:
        raise ValueError(f"--out {out}: {partial} cannot be made there ({error.strerror})") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another prepare is writing {out} at this moment (it holds {partial})") from None
        try:
            for left in partial.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            yield partial
        except BaseException:
            shutil.rmtree(partial)
            raise
        os.replace(partial, out)
    finally:
        os.close(lock)


class _TokenizerTexts:
    """Iterates over a bounded sample of the train documents' texts: all of them in a small corpus.

    `documents` is afterwards how many the corpus holds, or None where it was not read to its end.
    """

    def __init__(self, recipe: Recipe, rule: SplitRule, watch: Watch, total: int | None):
        self._recipe, self._rule, self._watch, self._total = recipe, rule, watch, total
        self.documents: int | None = None

    def __iter__(self) -> Iterator[str]:
        recipe = self._recipe
        characters, share = 0, 1.0
        # Of what comes well mixed its beginning will do: reading all of OpenWebText would download it twice. Files
        # are often sorted by source, so theirs is a sample from beginning to end.
        if not recipe.source_of_text.mixed:
            share = _TOKENIZER_CHARACTERS / max(recipe.characters(), 1)
        documents = self._watch("reading text for the tokenizer", recipe.documents(), self._total)
        number = 0
        for document in documents:
            number += 1
            if self._rule.split_of(document) == "train" and (fraction(recipe.seed, "tokenizer", document.id) < share):
                yield document.text
                characters += len(document.text)
            if characters > 2 * _TOKENIZER_CHARACTERS:  # the estimate was far off, or it comes well mixed
                return
        self.documents = number


class _Dataset:
    """The dataset as it grows: a packer and a shard writer per split, and what the manifest will say."""

    def __init__(self, recipe: Recipe, rule: SplitRule, tokenizer: Tokenizer, folder: Path):
        self._recipe, self._rule, self._folder = recipe, rule, folder
        content = tokenizer.to_str().encode()
        (folder / "tokenizer.json").write_bytes(content)
        size = vocabulary_size(tokenizer)
        self._end = tokenizer.token_to_id(END_OF_TEXT)
        self._tokenizer = {
            "sha256": hashlib.sha256(content).hexdigest(),
            "vocab_size": size,
            "end_of_text": self._end,
        }
        self._dtype = np.dtype("<u2" if size <= 1 << 16 else "<u4")
        length = recipe.sequence_length
        shard_bytes = int(recipe.shard_size * 1e6)
        self._writers = {split: ShardWriter(folder, split, self._dtype, shard_bytes) for split in SPLITS}
        self._shuffle = Shuffle(folder / "shuffle", recipe.seed)
        emits = {split: writer.add for split, writer in self._writers.items()} | {"train": self._shuffle.add}
        packer = PACKERS[recipe.packing]
        self._packers = {split: packer(length, self._end, self._dtype, emits[split]) for split in SPLITS}
        self._sources: dict[str, dict[str, dict[str, int]]] = {split: {} for split in SPLITS}

    def add(self, encoded: Encoded) -> None:
        if (encoded.ids == self._end).any():
            # Packing `document` tells padding by this token.
            raise ValueError(
                f"the tokenizer does not match: it finds {END_OF_TEXT} inside document {encoded.document.id}"
            )
        split = self._rule.split_of(encoded.document)
        self._packers[split].add(encoded)
        sources = self._sources[split]
        source = encoded.document.source
        if source not in sources and len(sources) >= _SOURCES:
            source = _OTHER_SOURCES
        counts = sources.setdefault(source, {"documents": 0, "tokens": 0})
        counts["documents"] += 1
        counts["tokens"] += len(encoded.ids)

    def finish(self, watch: Watch) -> None:
        """Write what is still open and, last of all, the manifest."""
        dropped = {split: packer.finish() for split, packer in self._packers.items()}
        for sample in watch("writing train shards", self._shuffle.drain(), self._shuffle.samples):
            self._writers["train"].add(sample)
        shards = {split: writer.close() for split, writer in self._writers.items()}
        for split in SPLITS:
            if not shards[split]:
                raise ValueError(self._why_empty(split))
        manifest = {
            "format": FORMAT,
            "corpus": self._recipe.corpus,
            "sequence_length": self._recipe.sequence_length,
            "packing": self._recipe.packing,
            "dtype": self._dtype.name,
            "tokenizer": self._tokenizer,
            "split_rule": self._rule.record(),
            "splits": {
                split: {
                    "sources": dict(sorted(self._sources[split].items())),
                    "dropped_tokens": dropped[split],
                    "shards": [asdict(shard) for shard in shards[split]],
                }
                for split in SPLITS
            },
        }
        with open(self._folder / "manifest.json", "x", encoding="utf-8") as file:
            json.dump(manifest, file, indent=1, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())

    def _why_empty(self, split: str) -> str:
        seen = sorted({source for counts in self._sources.values() for source in counts})
        documents = sum(counts["documents"] for counts in self._sources[split].values())
        found = f"split {split} has no sample: {documents} documents fell to it, too little text for one of "
        found += f"{self._recipe.sequence_length + 1} tokens."
        wanted = self._rule.target_sources
        missing = sorted(set(wanted) - set(seen))
        if missing:
            return f"{found} No document has the target source {', '.join(missing)}; sources: {', '.join(seen)}"
        if split == "train":
            return f"{found} Lower the other splits' fractions or --seq-len, or give more text"
        return f"{found} Raise --{split}-fraction, lower --seq-len, or give more text"
