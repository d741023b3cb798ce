"""Encode documents: their tokens, and which characters of its document each token covers."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, pairwise
from operator import attrgetter
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

from ..corpora.document import Document
from .characters import TokenCharacters
from .tokenizer import token_type

# Characters encoded in one call: some 50 MB of encodings in memory.
BATCH = 1_000_000


@dataclass(frozen=True)
class Encoded:
    """A document, its tokens `ids` [n] (no end of text) and the characters [from, to) of each, `places` [n, 2].

    Where a token boundary cuts a character into bytes, the character counts on both sides.
    """

    document: Document
    ids: np.ndarray
    places: np.ndarray

    def characters(self, first: int, last: int) -> tuple[int, int]:
        """The characters [from, to) of the text that the tokens [first, last) cover, first < last."""
        return int(self.places[first, 0]), int(self.places[last - 1, 1])


class Tokens(NamedTuple):
    """The tokens of documents, end to end."""

    lengths: np.ndarray  # [D] int64: tokens of each document
    ids: np.ndarray  # [n]
    places: np.ndarray  # [n, 2] int64: their characters; [0, 2] where the ids tell them


class _Piece(NamedTuple):
    """A stretch of a document that is encoded by itself."""

    text: str
    templated: bool


class Encoder:
    """Encodes by one tokenizer, in this process."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer, self._type = tokenizer, token_type(tokenizer)
        self._characters = TokenCharacters(tokenizer) if TokenCharacters.fit(tokenizer) else None

    def encode(self, documents: Sequence[Document]) -> Tokens:
        """Long texts are encoded in pieces; the tokens are the same. So are stretches that carry loss, as a model meets
        them: after a prompt that is encoded by itself, and followed by an end. What a chat template wrote is encoded as
        a whole, and special tokens in it are found."""
        cuts = [_cuts(document) for document in documents]
        pieces = [
            _Piece(document.text[begin:end], document.templated)
            for document, at in zip(documents, cuts, strict=True)
            for begin, end in pairwise([*at, None])
        ]
        firsts = np.cumsum([0, *map(len, cuts)])[:-1]  # of each document's pieces
        if self._characters:
            ids = self._encode(pieces, self._tokenizer.encode_batch_fast)
            tokens = Tokens(_lengths(ids, firsts), np.concatenate(ids), np.empty((0, 2), dtype=np.int64))
            sizes = self._characters.counts(tokens.ids, _edges(tokens.lengths))
            if (sizes == [len(document.text) for document in documents]).all():
                return tokens
        return self._placed(pieces, list(chain.from_iterable(cuts)), firsts)

    def encoded(self, documents: Sequence[Document], tokens: Tokens) -> Iterator[Encoded]:
        """What `encode` made of the documents, one by one."""
        told = len(tokens.places) > 0
        for document, (first, last) in zip(documents, pairwise(_edges(tokens.lengths).tolist()), strict=True):
            ids = tokens.ids[first:last]
            yield Encoded(document, ids, tokens.places[first:last] if told else self._characters.places(ids))

    def _encode(self, pieces: list[_Piece], encode) -> list[np.ndarray]:
        ids = []
        for templated, alike in groupby(pieces, attrgetter("templated")):
            self._tokenizer.encode_special_tokens = not templated
            for some in batches((piece.text for piece in alike), len, BATCH):
                ids += [np.array(encoding.ids, dtype=self._type) for encoding in encode(some, add_special_tokens=False)]
        self._tokenizer.encode_special_tokens = True
        return ids

    def _placed(self, pieces: list[_Piece], begins: list[int], firsts: np.ndarray) -> Tokens:
        """With places from the tokenizer, of pieces that begin at these characters of their documents."""
        places = []

        def encode(some: list[str], add_special_tokens: bool) -> list:
            encodings = self._tokenizer.encode_batch(some, add_special_tokens=add_special_tokens)
            for encoding in encodings:
                offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
                places.append(offsets + begins[len(places)])
            return encodings

        ids = self._encode(pieces, encode)
        return Tokens(_lengths(ids, firsts), np.concatenate(ids), np.concatenate(places))


def batches(things: Iterable, size, most: int) -> Iterator[list]:
    """Neighbours together, until their sizes add up to `most`."""
    batch, total = [], 0
    for thing in things:
        batch.append(thing)
        total += size(thing)
        if total >= most:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


def _lengths(ids: list[np.ndarray], firsts: np.ndarray) -> np.ndarray:
    return np.add.reduceat(np.array([len(piece) for piece in ids], dtype=np.int64), firsts)


def _edges(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)])


def _cuts(document: Document) -> list[int]:
    """Where the pieces of a document begin: one piece, or several, and the stretches that carry loss by themselves."""
    text, loss = document.text, () if document.templated else document.loss or ()
    edges = sorted({0, *(edge for stretch in loss for edge in stretch if edge < len(text))})
    return [begin + cut for begin, end in pairwise([*edges, len(text)]) for cut in _cuts_by_length(text[begin:end])]


def _cuts_by_length(text: str) -> list[int]:
    """Where pieces of about BATCH characters begin.

    Cut before a lone space that a word follows: GPT-2's rule begins a token there anyway, so nothing changes. A
    text without such a place within a piece's length is cut anywhere.
    """
    cuts = [0]
    while len(text) - cuts[-1] > 2 * BATCH:
        at = aim = cuts[-1] + BATCH
        while at < aim + BATCH and not (text[at] == " " and not text[at - 1].isspace() and not text[at + 1].isspace()):
            at += 1
        cuts.append(at)
    return cuts
