"""Cut the tokens of documents into samples of T + 1 tokens: T inputs and, one to the right, T targets.

Neighbouring samples share one token, the last target of one and the first input of the next: every token (but
the very first) is predicted exactly once.
"""

import json
from collections.abc import Callable

import numpy as np

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

    def finish(self) -> int:
        """Drop the incomplete last sample; returns how many tokens are never predicted for it."""
        return max(self._filled - 1, 0)


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

    def finish(self) -> int:
        """Nothing is dropped."""
        return 0


PACKERS = {"concat": ConcatPacker, "document": DocumentPacker}
