"""Cut the tokens of documents into samples of T + 1 tokens: T inputs and, one to the right, T targets.

Neighbouring samples share one token, the last target of one and the first input of the next: every token (but
the very first) is predicted exactly once.
"""

import json
from collections.abc import Callable

import numpy as np

from ..dataset.block import MASK
from ..encoding.documents import Encoded
from .writer import Sample


def _spans(spans: list[dict]) -> bytes:
    return json.dumps(spans, ensure_ascii=False, separators=(",", ":")).encode()


def _span(encoded: Encoded, first: int, last: int) -> dict:
    """The span of the document's tokens [first, last)."""
    begin, end = encoded.characters(first, last)
    return {"document": encoded.document.id, "source": encoded.document.source, "first": begin, "last": end}


class ConcatPacker:
    """Joins documents end to end with <|endoftext|>, as nanoGPT does, and cuts the line into samples."""

    def __init__(self, sequence_length: int, end_of_text: int, dtype: np.dtype, emit: Callable[[Sample], None]):
        self._length, self._end, self._emit = sequence_length, end_of_text, emit
        self._chunk = np.empty(sequence_length + 1, dtype=dtype)
        self._filled = 0
        self._held: list[dict] = []

    def add(self, encoded: Encoded) -> None:
        ids = np.append(encoded.ids, self._end)
        at = 0
        while at < len(ids):
            n = min(len(self._chunk) - self._filled, len(ids) - at)
            self._chunk[self._filled : self._filled + n] = ids[at : at + n]
            if at < len(encoded.ids):
                self._held.append(_span(encoded, at, min(at + n, len(encoded.ids))))
            self._filled += n
            at += n
            if self._filled == len(self._chunk):
                self._emit(Sample(self._chunk.tobytes(), _spans(self._held), self._length))
                self._filled, self._held = 0, []
                at -= 1  # the token that two samples share

    def finish(self) -> dict:
        """Drop the incomplete last sample; says how many tokens are never predicted for it."""
        return {"dropped_tokens": max(self._filled - 1, 0)}


class DocumentPacker:
    """Starts every document in a sample of its own and fills up its last one with <|endoftext|>.

    The first <|endoftext|> after a document is a target like any token; what follows it is padding.
    """

    def __init__(self, sequence_length: int, end_of_text: int, dtype: np.dtype, emit: Callable[[Sample], None]):
        self._length, self._end, self._dtype, self._emit = sequence_length, end_of_text, dtype, emit

    def add(self, encoded: Encoded) -> None:
        n = len(encoded.ids)
        for first in range(0, n, self._length):
            last = min(first + self._length + 1, n)
            chunk = np.full(self._length + 1, self._end, dtype=self._dtype)
            chunk[: last - first] = encoded.ids[first:last]
            spans = _spans([_span(encoded, first, last)])
            self._emit(Sample(chunk.tobytes(), spans, min(self._length, n - first)))

    def finish(self) -> dict:
        """Nothing is dropped."""
        return {"dropped_tokens": 0}


class ConversationPacker:
    """Gives every conversation one sample, cut off where it is longer, filled up with <|endoftext|>, and a mask.

    <|endoftext|> also follows every stretch that carries loss, but where a chat template wrote the ends. Targets are
    the tokens of these stretches and their ends, never padding. A conversation none of whose targets lies within the
    sample is dropped. A document that carries loss everywhere is no conversation: of it nothing is cut off, it goes on
    in further samples.
    """

    def __init__(self, sequence_length: int, end_of_text: int, dtype: np.dtype, emit: Callable[[Sample], None]):
        self._length, self._end, self._dtype, self._emit = sequence_length, end_of_text, dtype, emit
        self._lost_targets = self._truncated = self._dropped = 0

    def add(self, encoded: Encoded) -> None:
        document, (begins_n, ends_n) = encoded.document, encoded.places.T
        conversation = document.loss is not None
        ranges = document.loss if conversation else ((0, len(document.text)),)
        # Only in what a chat template wrote may a token lie on both sides of an edge: it is of the stretch then.
        begin_r, end_r = zip(*ranges, strict=True)
        first_r, last_r = np.searchsorted(ends_n, begin_r, side="right"), np.searchsorted(begins_n, end_r)
        carries_n = np.zeros(len(ends_n), dtype=bool)
        for first, last in zip(first_r, last_r, strict=True):
            carries_n[first:last] = True
        end_r = last_r[:0] if document.templated else last_r  # a template wrote the ends
        ids, mask = np.insert(encoded.ids, end_r, self._end), np.insert(carries_n, end_r, True)
        before = np.append(0, np.cumsum(np.insert(np.ones(len(ends_n), dtype=np.int64), end_r, 0)))  # of the text's
        for at in [0] if conversation else range(0, len(ids) - 1, self._length):
            part = slice(at, at + self._length + 1)
            span = _span(encoded, int(before[at]), int(before[min(part.stop, len(ids))]))
            self._sample(ids[part], mask[part], span)
        if conversation and len(ids) > self._length + 1:
            self._truncated += 1
            self._lost_targets += int(mask[self._length + 1 :].sum())

    def _sample(self, ids: np.ndarray, mask: np.ndarray, span: dict) -> None:
        tokens = np.full(self._length + 1, self._end, dtype=self._dtype)
        is_target = np.zeros(self._length + 1, dtype=MASK)
        tokens[: len(ids)], is_target[1 : len(ids)] = ids, mask[1:]  # the first token is only ever an input
        if targets := int(is_target.sum()):
            self._emit(Sample(tokens.tobytes(), _spans([span]), targets, is_target.tobytes()))
        else:
            self._dropped += 1

    def finish(self) -> dict:
        """Says how many targets were cut off, and of how many conversations; those dropped are among these."""
        told = {"truncated": self._truncated, "dropped": self._dropped}
        return {"dropped_tokens": self._lost_targets, "conversations": told}


PACKERS = {"concat": ConcatPacker, "document": DocumentPacker, "conversation": ConversationPacker}
