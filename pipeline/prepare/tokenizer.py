"""Byte-level BPE through `tokenizers`: train one, load one, and encode documents over all cores."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Encoding, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from ..corpora.document import Document

END_OF_TEXT = "<|endoftext|>"
GPT2 = "gpt2"  # the tokenizer's name on the hub
_BYTES = 256

# Characters encoded in one call: enough to keep all cores busy, and some 50 MB of encodings in memory.
_BATCH = 1_000_000


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE learnt from `texts`, of `vocab_size` tokens (fewer when the texts give no more merges).

    Token 0 is <|endoftext|>. Raises ValueError when vocab_size has no room for it and the 256 bytes.
    """
    if vocab_size <= _BYTES:
        raise ValueError(f"vocab_size is {vocab_size}; it must be at least {_BYTES + 1}: every byte is a token")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    # Untrimmed offsets: a token's leading space belongs to it, so the spans of neighbours meet.
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _ready(tokenizer)


def load_tokenizer(path: str | Path) -> Tokenizer:
    """A tokenizer from a tokenizer.json, or GPT-2's from the hub by the name 'gpt2'.

    Raises ValueError when it cannot be had, or has no <|endoftext|> to end documents with.
    """
    try:
        if str(path) == GPT2:
            tokenizer = Tokenizer.from_pretrained(GPT2)
        else:
            tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # `tokenizers` raises nothing more precise
        hint = "the name of a tokenizer.json file, or gpt2 with access to the hub, is expected"
        raise ValueError(f"cannot load the tokenizer '{path}' ({error}): {hint}") from error
    if tokenizer.token_to_id(END_OF_TEXT) is None:
        raise ValueError(f"the tokenizer '{path}' does not match: it has no token {END_OF_TEXT} to end documents")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return _ready(tokenizer)


def _ready(tokenizer: Tokenizer) -> Tokenizer:
    # A text may hold the characters <|endoftext|>; they are text there, and end no document.
    tokenizer.encode_special_tokens = True
    return tokenizer


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """One more than the largest token id."""
    return max(tokenizer.get_vocab().values()) + 1


def count_tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> int:
    """How many tokens the texts have."""
    return sum(len(encoding) for encoding in tokenizer.encode_batch(texts, add_special_tokens=False))


@dataclass(frozen=True)
class Encoded:
    """A document and its tokens `ids` [n] (no end of text). Long texts are encoded in pieces."""

    document: Document
    ids: np.ndarray
    pieces: list[Encoding]
    first_tokens: np.ndarray  # of each piece
    first_characters: np.ndarray

    def characters(self, first: int, last: int) -> tuple[int, int]:
        """The characters [from, to) of the text that the tokens [first, last) cover, first < last.

        Where a token boundary cuts a character into bytes, the character counts on both sides.
        """
        return self._of_token(first)[0], self._of_token(last - 1)[1]

    def _of_token(self, token: int) -> tuple[int, int]:
        piece = int(np.searchsorted(self.first_tokens, token, side="right")) - 1
        begin, end = self.pieces[piece].token_to_chars(int(token - self.first_tokens[piece]))
        offset = int(self.first_characters[piece])
        return begin + offset, end + offset


def encode_documents(tokenizer: Tokenizer, documents: Iterable[Document]) -> Iterator[Encoded]:
    """Encode documents in order, over all cores, the next batch while the caller works on this one."""
    with ThreadPoolExecutor(max_workers=1) as ahead:
        pending = None
        for batch in _batches(documents):
            following = ahead.submit(_encode, tokenizer, batch)
            if pending:
                yield from pending.result()
            pending = following
        if pending:
            yield from pending.result()


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch, characters = [], 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if characters >= _BATCH:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _encode(tokenizer: Tokenizer, documents: Sequence[Document]) -> list[Encoded]:
    cuts = [_cuts(document.text) for document in documents]
    texts = [
        document.text[begin:end]
        for document, at in zip(documents, cuts, strict=True)
        for begin, end in zip(at, [*at[1:], None], strict=True)
    ]
    encodings = iter(tokenizer.encode_batch(texts, add_special_tokens=False))
    encoded = []
    for document, at in zip(documents, cuts, strict=True):
        pieces = [next(encodings) for _ in at]
        ids = np.concatenate([np.array(piece.ids, dtype=np.uint32) for piece in pieces])
        lengths = np.array([len(piece) for piece in pieces])
        encoded.append(Encoded(document, ids, pieces, np.cumsum(lengths) - lengths, np.array(at)))
    return encoded


def _cuts(text: str) -> list[int]:
    """Where the pieces of a text begin: one piece, or several of about _BATCH characters.

    Cut before a lone space that a word follows: GPT-2's rule begins a token there anyway, so nothing changes. A
    text without such a place within a piece's length is cut anywhere.
    """
    cuts = [0]
    while len(text) - cuts[-1] > 2 * _BATCH:
        at = aim = cuts[-1] + _BATCH
        while at < aim + _BATCH and not (text[at] == " " and not text[at - 1].isspace() and not text[at + 1].isspace()):
            at += 1
        cuts.append(at)
    return cuts
