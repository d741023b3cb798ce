"""Where the tokens of a byte-level tokenizer lie in their text, without asking the tokenizer.

Its tokens are pieces of the text's UTF-8 bytes, so the number of characters that each begins tells all. `tokenizers`
encodes a third faster when it need not keep track of places, and reading them takes longer than reading the tokens.
"""

import numpy as np
from tokenizers import Tokenizer, decoders


class TokenCharacters:
    """Knows of every token how many characters it begins, and whether its first byte is in the middle of one."""

    def __init__(self, tokenizer: Tokenizer):
        added = {token: known.content.encode() for token, known in tokenizer.get_added_tokens_decoder().items()}
        pieces = {token: _bytes_of(text) for text, token in tokenizer.get_vocab().items()} | added
        size = max(pieces) + 1
        self._begun_V = np.zeros(size, dtype=np.int32)
        self._inside_V = np.zeros(size, dtype=bool)
        for token, piece in pieces.items():
            self._begun_V[token] = sum(map(_begins_one, piece))
            self._inside_V[token] = bool(piece) and not _begins_one(piece[0])

    @staticmethod
    def fit(tokenizer: Tokenizer) -> bool:
        """Whether the tokens of a text are its own bytes: nothing rewrites it before it is cut."""
        return tokenizer.normalizer is None and isinstance(tokenizer.decoder, decoders.ByteLevel)

    def places(self, ids_n: np.ndarray) -> np.ndarray:
        """[n, 2] int64: token i of a text covers its characters [from, to). A character that a token boundary cuts
        into bytes counts on both sides."""
        ends_n = np.cumsum(self._begun_V[ids_n], dtype=np.int64)
        return np.stack([ends_n - self._begun_V[ids_n] - self._inside_V[ids_n], ends_n], axis=1)

    def counts(self, ids_n: np.ndarray, edges: np.ndarray) -> np.ndarray:
        """How many characters the tokens [edges[i], edges[i + 1]) begin, for each i."""
        return np.diff(np.concatenate([[0], np.cumsum(self._begun_V[ids_n], dtype=np.int64)])[edges])


def _begins_one(byte: int) -> bool:
    return byte & 0xC0 != 0x80


def _bytes_of(token: str) -> bytes:
    """The bytes that the characters of a token stand for (GPT-2's table)."""
    return bytes(_BYTES[character] for character in token) if set(token) <= _BYTES.keys() else token.encode()


_PLAIN = [*range(33, 127), *range(161, 173), *range(174, 256)]  # these stand for themselves, the others for 256 + i
_OTHERS = sorted(set(range(256)) - set(_PLAIN))
_BYTES = {chr(byte): byte for byte in _PLAIN} | {chr(256 + i): byte for i, byte in enumerate(_OTHERS)}
