"""Which documents train, which steer the selection, and which are only ever measured."""

import hashlib
from dataclasses import asdict, dataclass

from ..corpora.document import Document
from ..dataset.manifest import HELD_OUT


def fraction(seed: int, purpose: str, name: str) -> float:
    """A number in [0, 1) that depends on nothing but its arguments, evenly spread over names."""
    digest = hashlib.sha256(f"{seed} {purpose} {name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


@dataclass(frozen=True)
class SplitRule:
    """Deals documents to splits by a hash of their text, so a document's split never depends on the others, and copies
    are in one split.

    `target`, `val` and `test` are fractions of the documents of `target_sources` (empty: of all documents);
    the rest, and every document of another source, is `train`. Where there are `target_corpora`, they are fractions of
    these corpora's documents, of which none is left, and every document of another corpus is `train`. Where there are
    `measured_corpora` too, `target` is all of the target corpora, its fraction is 0, and `val` and `test` are fractions
    of the measured ones. Raises ValueError for fractions that are not above 0 or leave nothing to train on.
    """

    seed: int
    target: float
    val: float
    test: float
    target_sources: tuple[str, ...] = ()
    target_corpora: tuple[str, ...] = ()
    measured_corpora: tuple[str, ...] = ()

    def __post_init__(self):
        for name in HELD_OUT[1:] if self.measured_corpora else HELD_OUT:
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"the {name} fraction is {getattr(self, name)}; it must lie between 0 and 1")
        if self.target + self.val + self.test >= 1 and not self.target_corpora:
            raise ValueError("the target, val and test fractions add up to 1 or more: nothing is left to train on")

    def split_of(self, document: Document) -> str:
        if self.steers_alone(document):
            return HELD_OUT[0]
        return self.deals(document.digest) if self.may_hold_out(document) else "train"

    def steers_alone(self, document: Document) -> bool:
        """Whether it is in `target` whatever its text is."""
        return bool(self.measured_corpora) and document.corpus in self.target_corpora

    def may_hold_out(self, document: Document) -> bool:
        """Whether a document like this, of another text, could be in another split than `train`."""
        if self.target_corpora:
            return document.corpus in (*self.target_corpora, *self.measured_corpora)
        return not self.target_sources or document.source in self.target_sources

    def deals(self, digest: int) -> str:
        """The split of the texts of this digest that may be held out."""
        where = fraction(self.seed, "split", f"{digest:016x}")
        for name in HELD_OUT:
            where -= getattr(self, name)
            if where < 0:
                return name
        return HELD_OUT[-1] if self.target_corpora else "train"  # there the fractions are all there is

    def record(self) -> dict:
        """What manifest.json says of this rule."""
        return {
            "by": "sha256 of '<seed> split <BLAKE2b-64 of the text without ASCII white space, in hex>', first 8 bytes "
            "as a fraction",
            **asdict(self),
            "target_sources": list(self.target_sources),
            "target_corpora": list(self.target_corpora),
            "measured_corpora": list(self.measured_corpora),
        }
