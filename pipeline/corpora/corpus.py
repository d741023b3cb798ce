"""What a corpus is: documents, always in the same order and in constant memory, and roughly how many characters."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .document import Document, Fields


@dataclass(frozen=True)
class Corpus:
    """One entry of the registry.

    read: (files, fields) -> documents; characters: files -> roughly how many characters they hold, without reading
    them. of_files: whether it reads files that the user names; the others get none. documents: how many there are,
    where that is known. mixed: whether its beginning is a fair sample of it all. seq_len, vocab_size, target_sources:
    what `prepare` takes where no option says otherwise.
    """

    read: Callable[[list[str], Fields], Iterator[Document]]
    characters: Callable[[list[str]], int]
    of_files: bool = False
    documents: int | None = None
    mixed: bool = False
    seq_len: int = 1024
    vocab_size: int = 32_768
    target_sources: tuple[str, ...] = ()
