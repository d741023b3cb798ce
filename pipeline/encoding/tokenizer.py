"""Byte-level BPE through `tokenizers`: train one, load one."""

import hashlib
import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from ..atomic import write_whole

END_OF_TEXT = "<|endoftext|>"
CONFIG = "tokenizer_config.json"  # what `transformers` keeps beside a tokenizer.json
GPT2 = "gpt2"  # the tokenizer's name on the hub
_BYTES = 256


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


def trained_tokenizer(texts: Iterable[str], vocab_size: int, folder: Path) -> Tokenizer:
    """The same, kept in `folder` by what it learnt from: found there, it is taken instead of being trained again.

    `texts` is iterated twice where `folder` holds a tokenizer of other texts.
    """
    seen = _Digested(texts, vocab_size)
    if any(folder.glob("tokenizer-*.json")):
        deque(seen, maxlen=0)
        if (folder / seen.name).exists():
            return read_tokenizer((folder / seen.name).read_text(encoding="utf-8"))
    tokenizer = train_tokenizer(seen, vocab_size)
    write_whole(folder / seen.name, tokenizer.to_str())
    return tokenizer


class _Digested:
    """The same texts, which it has a name for once it has been iterated over."""

    def __init__(self, texts: Iterable[str], vocab_size: int):
        self._texts, self._vocab_size = texts, vocab_size

    def __iter__(self) -> Iterator[str]:
        digest = hashlib.sha256()
        for text in self._texts:
            data = text.encode()
            digest.update(b"%d " % len(data) + data)
            yield text
        self.name = f"tokenizer-{self._vocab_size}-{digest.hexdigest()[:32]}.json"


def load_tokenizer(path: str | Path) -> Tokenizer:
    """A tokenizer from a tokenizer.json, or GPT-2's from the hub by the name 'gpt2'.

    Raises ValueError when it cannot be had, or has nothing to end documents with.
    """
    try:
        if str(path) == GPT2:
            tokenizer = Tokenizer.from_pretrained(GPT2)
        else:
            tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # `tokenizers` raises nothing more precise
        hint = "the name of a tokenizer.json file, or gpt2 with access to the hub, is expected"
        raise ValueError(f"cannot load the tokenizer '{path}' ({error}): {hint}") from error
    end_token(path, tokenizer)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return _ready(tokenizer)


def end_token(path: str | Path, tokenizer: Tokenizer) -> str:
    """What ends a document: the eos_token that a tokenizer_config.json beside a tokenizer.json names, or else
    <|endoftext|>. ValueError for a tokenizer that does not know it."""
    config, named = Path(path).with_name(CONFIG), None
    if config.is_file():
        try:
            named = json.loads(config.read_text(encoding="utf-8")).get("eos_token")
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{config} is not the configuration of a tokenizer ({error})") from error
        named = named["content"] if isinstance(named, dict) else named
    end = named or END_OF_TEXT
    if tokenizer.token_to_id(end) is None:
        where = f"which {config} names as eos_token" if named else f"and no {CONFIG} beside it names an eos_token"
        raise ValueError(f"the tokenizer '{path}' does not match: it has no token {end} to end documents, {where}")
    return end


def read_tokenizer(content: str) -> Tokenizer:
    """The tokenizer of the text of a tokenizer.json that was loaded or trained here."""
    return _ready(Tokenizer.from_str(content))


def _ready(tokenizer: Tokenizer) -> Tokenizer:
    # A text may hold the characters <|endoftext|>; they are text there, and end no document.
    tokenizer.encode_special_tokens = True
    return tokenizer


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """One more than the largest token id."""
    return max(tokenizer.get_vocab().values()) + 1


def count_tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> int:
    """How many tokens the texts have."""
    return sum(len(encoding) for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False))


def token_type(tokenizer: Tokenizer) -> np.dtype:
    """The smaller of uint16 and uint32 that holds every token, little endian."""
    return np.dtype("<u2" if vocabulary_size(tokenizer) <= 1 << 16 else "<u4")
