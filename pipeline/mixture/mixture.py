"""The documents of all corpora of a dataset, one after the other, and how much of each is taken.

A corpus with a budget is measured in one pass. Of files, documents are taken by a hash of their ids, from beginning to
end; what is taken for well mixed (the hub, WebDataset shards) gives its beginning, so that no more is fetched.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..corpora.document import Document
from .ingredients import ROLES, Ingredient
from .splits import fraction
from .watch import Watch, unwatched

_BINS = 1 << 16  # of the hash: a budget is met to this share of the corpus
_SAMPLE = 1_000_000  # characters that tell how many of them a token of the corpus has
_NOMINAL = 4.0  # characters of a token while there is no tokenizer


@dataclass
class _Measured:
    """What one pass over a corpus found: its characters, by the hash of the documents' ids too, and a sample."""

    characters: int
    by_bin: np.ndarray  # [_BINS] int64
    sample: list[str]


class Mixture:
    """The documents of `ingredients`: those of role measured first, then target. `watch` may show how a measuring pass
    goes."""

    def __init__(self, ingredients: Sequence[Ingredient], seed: int, watch: Watch = unwatched):
        self.ingredients = sorted(ingredients, key=lambda one: -ROLES.index(one.role))
        self._seed, self._watch = seed, watch
        self._measured: dict[str, _Measured] = {}
        self._sizes: dict[str, int] = {}  # of those taken whole: their own word
        # Characters taken of every corpus that is not taken whole.
        self._budgets: dict[str, float] = {}
        self.settle(None)

    def settle(self, tokens_of: Callable[[list[str]], int] | None) -> None:
        """Decide how much is taken. tokens_of: how many tokens a list of texts has; None for want of a tokenizer."""
        for role in ROLES:
            limited = [one for one in self.ingredients if one.role == role and not one.whole]
            ratio = {one.name: self._characters_per_token(one, tokens_of) for one in limited}
            held = {one.name: self._measure(one).characters / ratio[one.name] for one in limited}
            weights = {one.name: one.weight for one in limited if one.weight is not None}
            unit = min((held[name] / weight for name, weight in weights.items()), default=0.0)
            for one in limited:
                tokens = one.tokens if one.weight is None else one.weight * unit
                self._budgets[one.name] = tokens * ratio[one.name]

    @property
    def known_documents(self) -> int | None:
        """How many there are, where every corpus is taken whole and tells it."""
        told = [one.registered.documents if one.whole else None for one in self.ingredients]
        return None if None in told else sum(told)

    def planned_characters(self) -> float:
        """Roughly how many characters are taken of all corpora."""
        return sum(self.planned_characters_of(one) for one in self.ingredients)

    def planned_characters_of(self, one: Ingredient) -> float:
        if not one.whole:
            return min(self._budgets[one.name], self._measure(one).characters)
        if one.name not in self._sizes:
            self._sizes[one.name] = one.characters()
        return self._sizes[one.name]

    def documents(self) -> Iterator[Document]:
        """ValueError for a corpus of which nothing is taken."""
        for one in self.ingredients:
            yield from self.documents_of(one)

    def documents_of(self, one: Ingredient) -> Iterator[Document]:
        filled = False
        for document in one.documents() if one.whole else self._limited(one):
            filled = filled or bool(document.text)
            yield document
        if not filled:
            raise ValueError(f"{one} holds no document" + ("" if one.whole else " within what is taken of it"))

    def _limited(self, one: Ingredient) -> Iterator[Document]:
        budget = self._budgets[one.name]
        if one.registered.mixed:
            for document in one.documents():
                yield document
                budget -= len(document.text)
                if budget <= 0:
                    return
            return
        bins = int((np.cumsum(self._measure(one).by_bin) <= budget * (1 + 1e-9)).sum())
        for document in one.documents():
            if self._bin(document) < bins:
                yield document

    def _bin(self, document: Document) -> int:
        return int(fraction(self._seed, "budget", document.id) * _BINS)

    def _characters_per_token(self, one: Ingredient, tokens_of) -> float:
        if tokens_of is None:
            return _NOMINAL
        sample = self._measure(one).sample
        return sum(map(len, sample)) / max(tokens_of(sample), 1)

    def _measure(self, one: Ingredient) -> _Measured:
        """Of a corpus that gives its beginning, only that is read, and its own word is taken for its size."""
        if one.name not in self._measured:
            by_bin = np.zeros(_BINS, dtype=np.int64)
            sample: list[str] = []
            sampled, mixed = 0, one.registered.mixed
            share = 1.0 if mixed else _SAMPLE / max(one.characters(), 1)
            for document in self._watch(f"measuring {one}", one.documents(), one.registered.documents):
                by_bin[self._bin(document)] += len(document.text)
                if sampled < 2 * _SAMPLE and fraction(self._seed, "measure", document.id) < share:
                    sample.append(document.text)
                    sampled += len(document.text)
                if mixed and sampled > _SAMPLE:
                    break
            total = one.characters() if mixed and sampled > _SAMPLE else int(by_bin.sum())
            if not total:
                raise ValueError(f"{one} holds no document")
            self._measured[one.name] = _Measured(total, by_bin, sample)
        return self._measured[one.name]
