"""The text that a tokenizer is trained on."""

from collections.abc import Iterator

from ..corpora.document import Document
from ..mixture.digests import Digests
from ..mixture.ingredients import POOL
from ..mixture.mixture import Mixture
from ..mixture.splits import SplitRule, fraction
from ..mixture.watch import Watch

# A tokenizer learns from about this much text, of every corpus of the pool its share of it.
_CHARACTERS = 50_000_000


class TokenizerTexts:
    """Iterates over a bounded sample of the train documents' texts: all of them in a small corpus.

    Files are often sorted by source, so of them it is a sample from beginning to end. Of what comes well mixed it is
    the beginning: reading all of OpenWebText would download it twice. `documents` is afterwards how many the mixture
    holds, or None where it was not read to its end.
    """

    def __init__(self, mixture: Mixture, rule: SplitRule, seed: int, watch: Watch):
        self._mixture, self._rule, self._seed, self._watch = mixture, rule, seed, watch
        self._share = min(_CHARACTERS / max(mixture.planned_characters(), 1), 1.0)
        self._mixed = {one.name for one in mixture.ingredients if one.registered.mixed}
        self._held_out = Digests()  # of the corpora that are no pool, which are read first
        self.documents: int | None = None

    def __iter__(self) -> Iterator[str]:
        documents = self._watch("reading text for the tokenizer", self._read(), self._mixture.known_documents)
        return (document.text for document in documents if self._chosen(document))

    def _read(self) -> Iterator[Document]:
        """All documents of one corpus after the other, each until far more than its share of the text is chosen."""
        number, complete = 0, True
        for one in self._mixture.ingredients:
            left = 2 * self._share * self._mixture.planned_characters_of(one)
            for document in self._mixture.documents_of(one):
                number += 1
                if one.role != POOL:
                    self._held_out.add(document.digest)
                yield document
                left -= len(document.text) * self._chosen(document)
                if left < 0:  # the estimate was far off, or it comes well mixed
                    complete = False
                    break
        self.documents = number if complete else None

    def _chosen(self, document: Document) -> bool:
        """Not even a document of the pool whose text may be held out."""
        if document.corpus not in self._mixed and fraction(self._seed, "tokenizer", document.id) >= self._share:
            return False
        if self._rule.target_corpora:
            return not self._rule.may_hold_out(document) and document.digest not in self._held_out
        return self._rule.deals(document.digest) == "train"
