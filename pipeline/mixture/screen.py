"""What stands between the corpora and the dataset: every document gets its split, and no text is in two of them.

A document of the pool whose text is held out too is dropped, always; so is one of a target corpus whose text is
measured. One pass will do: measured corpora are read first, then target corpora, and where held-out documents are those
of some sources, documents of the others whose text would be held out in these (the splits' fractions of them) wait on
the disk for the end. Other duplicates are kept, counted or dropped.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Literal

from ..corpora.document import Document
from ..dataset.duplicates import FILE
from .digests import Digests
from .groups import Groups
from .near import NearDuplicates
from .splits import SplitRule

Mode = Literal["keep", "drop", "report"]


class Screen:
    """Lets the documents of a dataset through, each with its split, and counts.

    mode: what becomes of duplicates. near: the similarity at which documents are duplicates, None for equal texts alone
    (but for white space). A near duplicate goes to the split of the first of its kind, so that this is true of them as
    well. folder: for what waits, in files without a name. Memory: 8 bytes for each held-out document, 8 for each of all
    with `drop`, 40 at the end with `report`; 2 KB with `near`.
    """

    def __init__(self, rule: SplitRule, mode: Mode, near: float | None, folder: Path):
        self._rule, self._mode = rule, mode
        self._similarity, self._near = near, None if near is None else NearDuplicates(near)
        self._held_out, self._seen = Digests(), Digests()
        self._measured = Digests()  # of measured corpora
        self._groups = Groups(folder) if mode == "report" else None
        self._aside = TemporaryFile(dir=folder)  # noqa: SIM115 -- closed when all has passed
        self._leaked, self._steering = 0, 0
        self._dropped = {"exact": 0, "like": 0}

    def passed(self, documents: Iterable[Document]) -> Iterator[Document]:
        """The documents that become the dataset, those that had to wait at the end."""
        for document in documents:
            if document.text and not self._waits(document):
                yield from self._judged(document)
        self._aside.seek(0)
        for line in self._aside:
            *told, loss = json.loads(line)
            yield from self._judged(Document(*told, loss=None if loss is None else tuple(map(tuple, loss))))
        self._aside.close()

    def _waits(self, document: Document) -> bool:
        """Whether a document that is still to come may hold its text out."""
        rule = self._rule
        if rule.target_corpora or rule.may_hold_out(document) or rule.deals(document.digest) == "train":
            return False
        told = [document.id, document.text, document.source, document.corpus, document.loss]
        self._aside.write(json.dumps(told).encode() + b"\n")
        return True

    def _judged(self, document: Document) -> Iterator[Document]:
        """The document in its split, or nothing if it is dropped."""
        split, first = self._rule.split_of(document), document.digest
        of_pool = not self._rule.may_hold_out(document)
        steers = self._rule.steers_alone(document)
        if of_pool and document.digest in self._held_out:
            self._leaked += 1
            return
        if steers and document.digest in self._measured:
            self._steering += 1
            return
        if self._mode == "drop" and not self._seen.add(document.digest):
            self._dropped["exact"] += 1
            return
        like = self._near.first_like(document, split) if self._near else None
        if like:
            if of_pool and like.split != "train":
                self._leaked += 1
                return
            if steers and like.split != split:
                self._steering += 1
                return
            if self._mode == "drop":
                self._dropped["like"] += 1
                return
            split, first = like.split, like.digest
        if split != "train":
            self._held_out.add(document.digest)
            if self._rule.measured_corpora and not steers:
                self._measured.add(document.digest)
        document = replace(document, split=split)
        if self._groups:
            self._groups.add(document, first)
        yield document

    def finish(self, folder: Path) -> dict:
        """What manifest.json says of duplicates, when all has passed; the groups are written to `folder`.

        `exact` and `like`: how many documents have the text of an earlier one, or one like it; with `drop` they are
        left out. `groups`: of how many kinds.
        """
        told = {"mode": self._mode, "near": self._similarity, "dropped_from_pool_as_held_out": self._leaked}
        if self._rule.measured_corpora:
            told["dropped_from_target_as_measured"] = self._steering
        if self._mode == "drop":
            told |= self._dropped
        if self._groups:
            self._groups.write(folder / FILE)
            told |= {"exact": self._groups.exact, "like": self._groups.near, "groups": self._groups.groups}
            if self._groups.groups:
                told |= {"sha256": hashlib.sha256((folder / FILE).read_bytes()).hexdigest()}
        return told
