"""Near duplicates: documents that share most of their runs of five words, by MinHash (Broder 1997) through `rensa`."""

from dataclasses import dataclass

from ..corpora.document import Document

_WORDS = 5
_HASHES = 128
_BANDS = 32  # of 4 hashes each: of pairs at similarity 0.8 one in ten million is missed, at 0.6 one in a hundred


@dataclass
class First:
    """The first document of its kind: a number for it, its digest, and the split that it is in."""

    number: int
    digest: int
    split: str


class NearDuplicates:
    """Knows the first document of every kind so far; some 2 KB each.

    similarity: of the sets of runs of five words, shared over all (Jaccard), estimated by 128 hashes with a standard
    deviation of 0.035 at 0.8. ValueError where the package is not installed.
    """

    def __init__(self, similarity: float):
        try:
            from rensa import RMinHash, RMinHashLSH
        except ImportError:
            raise ValueError(
                "--near-duplicates needs the package rensa: pip install -c constraints.txt -e '.[near]'"
            ) from None
        self._hash = lambda: RMinHash(num_perm=_HASHES, seed=0)
        self._index = RMinHashLSH(threshold=similarity, num_perm=_HASHES, num_bands=_BANDS)
        self._similarity = similarity
        self._firsts: list[First] = []
        self._signatures: list = []

    def first_like(self, document: Document, split: str) -> First | None:
        """The first document that this one is like; None if it is the first, and then it is kept as one of `split`."""
        signature = self._hash()
        signature.update(_runs(document.text))
        for number in sorted(self._index.query(signature)):
            if self._signatures[number].jaccard(signature) >= self._similarity:
                return self._firsts[number]
        number = len(self._firsts)
        self._firsts.append(First(number, document.digest, split))
        self._signatures.append(signature)
        self._index.insert(number, signature)
        return None


def _runs(text: str) -> list[str]:
    """All runs of _WORDS words; of a shorter text the one that it is."""
    words = text.split()
    runs = zip(*(words[begin:] for begin in range(_WORDS)), strict=False)
    return list(map(" ".join, runs)) or [" ".join(words)]
