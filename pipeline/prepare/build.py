"""From a corpus to a finished dataset folder.

At most two passes over the documents: one that trains the tokenizer (when none is given), one that encodes and
packs. The train split's samples then go to the shards in random order. Everything is written into
`<out>.partial`, the manifest last, and the folder is renamed when it is whole. Of a run that was interrupted, the
tokenizer and what is encoded are taken over; packing and shuffling, which take a small part of the time, begin anew.
"""

import hashlib
import json
import os
from collections import Counter
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

from tokenizers import Tokenizer

from ..corpora.conversations.chat_template import ChatTemplate
from ..dataset.manifest import FORMAT, SPLITS, Manifest
from ..encoding.documents import Encoded
from ..encoding.parts import encode_documents
from ..encoding.tokenizer import (
    CONFIG,
    END_OF_TEXT,
    count_tokens,
    end_token,
    load_tokenizer,
    token_type,
    trained_tokenizer,
    vocabulary_size,
)
from ..mixture.mixture import Mixture
from ..mixture.screen import Screen
from ..mixture.splits import SplitRule
from ..mixture.watch import Watch, unwatched
from .folder import KEPT, new_folder
from .learn import TokenizerTexts
from .pack import PACKERS
from .recipe import Recipe
from .shuffle import Shuffle
from .writer import ShardWriter

# The manifest counts so many sources of a split by name and the others together: it stays small whatever a source
# field holds.
_SOURCES = 200
_OTHER_SOURCES = "(other sources)"


def prepare(recipe: Recipe, watch: Watch = unwatched) -> Manifest:
    """Make the dataset that `recipe` describes; returns its manifest, read back from the finished folder.

    The same documents and recipe give the same bytes, also with other `workers` and after an interruption. `watch`
    may show the progress of what passes through it. Raises ValueError, and leaves nothing behind, for a recipe or
    corpus that gives no dataset; Interrupted, and leaves what is encoded, where neither is to blame.
    """
    recipe.check()
    with new_folder(recipe.out) as folder:
        templates = {one.asked.chat_template for one in recipe.ingredients} - {None}
        if templates and recipe.tokenizer is None:
            raise ValueError(
                "a chat template needs the tokenizer that knows its tokens: give its tokenizer.json by --tokenizer"
            )
        mixture = Mixture(recipe.ingredients, recipe.seed, watch)
        rule = recipe.split_rule(mixture.planned_characters())
        total = mixture.known_documents
        if recipe.tokenizer is None:
            texts = TokenizerTexts(mixture, rule, recipe.seed, watch)
            tokenizer, end = trained_tokenizer(texts, recipe.trained_vocab_size, folder / KEPT), END_OF_TEXT
            total = texts.documents or total
        else:
            tokenizer = load_tokenizer(recipe.tokenizer)
            end = end_token(recipe.tokenizer, tokenizer)
            for template in templates:
                _check_template(template, recipe.tokenizer, tokenizer)
        mixture.settle(lambda texts: count_tokens(tokenizer, texts))
        dataset = _Dataset(recipe, rule, tokenizer, end, folder)
        screen = Screen(rule, recipe.duplicates, recipe.near_duplicates, folder)
        documents = screen.passed(watch("encoding documents", mixture.documents(), total))
        with closing(encode_documents(tokenizer, documents, folder / KEPT, recipe.processes)) as encoded:
            for document in encoded:
                dataset.add(document)
        dataset.finish(watch, screen.finish(folder))
    return Manifest.load(recipe.out)


def _check_template(template: str, path: str, tokenizer: Tokenizer) -> None:
    """ValueError where a chat template writes special tokens that the tokenizer of this path does not know."""
    unknown = [token for token in ChatTemplate.of(template).special_tokens if tokenizer.token_to_id(token) is None]
    if unknown:
        raise ValueError(f"--chat-template {template} is of another tokenizer: '{path}' has no {', '.join(unknown)}")


class _Dataset:
    """The dataset as it grows: a packer and a shard writer per split, and what the manifest will say."""

    def __init__(self, recipe: Recipe, rule: SplitRule, tokenizer: Tokenizer, end: str, folder: Path):
        self._recipe, self._rule, self._folder = recipe, rule, folder
        content = tokenizer.to_str().encode()
        (folder / "tokenizer.json").write_bytes(content)
        self._end = tokenizer.token_to_id(end)
        if end != END_OF_TEXT:  # so that the folder's tokenizer.json may be given to another `prepare`
            (folder / CONFIG).write_text(json.dumps({"eos_token": end}), encoding="utf-8")
        self._tokenizer = {
            "sha256": hashlib.sha256(content).hexdigest(),
            "vocab_size": vocabulary_size(tokenizer),
            "end_of_text": self._end,
        }
        self._dtype = token_type(tokenizer)
        length = recipe.sequence_length
        shard_bytes = int(recipe.shard_size * 1e6)
        self._writers = {split: ShardWriter(folder, split, self._dtype, shard_bytes) for split in SPLITS}
        self._shuffle = Shuffle(folder / "shuffle", recipe.seed)
        emits = {split: writer.add for split, writer in self._writers.items()} | {"train": self._shuffle.add}
        packer = PACKERS[recipe.packed]
        self._packers = {split: packer(length, self._end, self._dtype, emits[split]) for split in SPLITS}
        self._sources: dict[str, dict[str, dict[str, int]]] = {split: {} for split in SPLITS}
        self._document_tokens: dict[str, Counter[int]] = {split: Counter() for split in SPLITS}
        self._taken = {one.name: {"documents": 0, "tokens": 0} for one in recipe.ingredients}

    def add(self, encoded: Encoded) -> None:
        if not encoded.document.templated and (encoded.ids == self._end).any():
            # Packing `document` tells padding by this token.
            raise ValueError(
                f"the tokenizer does not match: it finds the end of text inside document {encoded.document.id}"
            )
        split = encoded.document.split
        self._packers[split].add(encoded)
        self._document_tokens[split][max(len(encoded.ids), 1).bit_length() - 1] += 1
        sources = self._sources[split]
        source = encoded.document.source
        if source not in sources and len(sources) >= _SOURCES:
            source = _OTHER_SOURCES
        for counts in (sources.setdefault(source, {"documents": 0, "tokens": 0}), self._taken[encoded.document.corpus]):
            counts["documents"] += 1
            counts["tokens"] += len(encoded.ids)

    def finish(self, watch: Watch, duplicates: dict) -> None:
        """Write what is still open and, last of all, the manifest. duplicates: what it says of them."""
        dropped = {split: packer.finish() for split, packer in self._packers.items()}
        for sample in watch("writing train shards", self._shuffle.drain(), self._shuffle.samples):
            self._writers["train"].add(sample)
        shards = {split: writer.close() for split, writer in self._writers.items()}
        for split in SPLITS:
            if not shards[split]:
                raise ValueError(self._why_empty(split))
        manifest = {
            "format": FORMAT,
            "corpora": [one.record() | {"taken": self._taken[one.name]} for one in self._recipe.ingredients],
            "sequence_length": self._recipe.sequence_length,
            "packing": self._recipe.packed,
            "dtype": self._dtype.name,
            "tokenizer": self._tokenizer,
            "split_rule": self._rule.record(),
            "duplicates": duplicates,
            "splits": {
                split: {
                    "sources": dict(sorted(self._sources[split].items())),
                    **dropped[split],
                    "document_tokens": [counts[i] for i in range(max(counts, default=-1) + 1)],
                    "shards": [asdict(shard) for shard in shards[split]],
                }
                for split, counts in self._document_tokens.items()
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
        if documents and self._recipe.packed == "conversation":
            return f"split {split} has no sample: none of its {documents} conversations has a target within --seq-len"
        wanted = self._rule.target_sources
        missing = sorted(set(wanted) - set(seen))
        if missing:
            return f"{found} No document has the target source {', '.join(missing)}; sources: {', '.join(seen)}"
        if split != "train" and self._rule.target_corpora:
            return f"{found} Give more target text, lower --seq-len, or raise --{split}-fraction"
        if split == "train":
            return f"{found} Lower the other splits' fractions or --seq-len, or give more text"
        return f"{found} Raise --{split}-fraction, lower --seq-len, or give more text"
