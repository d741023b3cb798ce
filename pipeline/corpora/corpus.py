"""What a corpus is: documents, always in the same order and in constant memory, and roughly how many characters."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

from .document import Document, Fields


@dataclass(frozen=True)
class Asked:
    """Which text is asked for: what a user may say of a corpus. Options of `prepare` of these names explain them."""

    data_files: tuple[str, ...] = ()
    dataset: str | None = None
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    text_field: str = "text"
    source_field: str | None = None
    id_field: str | None = None
    pipe: bool = False
    chat_template: str | None = None

    @property
    def fields(self) -> Fields:
        return Fields(self.text_field, self.id_field, self.source_field)

    def given(self) -> list[str]:
        """The names of those that differ from their defaults."""
        return [field.name for field in fields(self) if getattr(self, field.name) != field.default]


RECORD = ("text_field", "source_field", "id_field")  # what a corpus of records reads


@dataclass(frozen=True)
class Corpus:
    """One entry of the registry.

    read: asked -> documents; characters: asked -> roughly how many characters they hold, without reading them.
    of_files: whether it reads files that the user names: then asked.data_files are these files, each once. reads: the
    names of what it reads of `asked` besides. documents: how many there are, where that is known. mixed: whether its
    beginning is taken for a fair sample of it all. conversations: whether its documents say which of their text carries
    loss. seq_len, vocab_size, target_sources: what `prepare` takes where no option says otherwise.
    """

    read: Callable[[Asked], Iterator[Document]]
    characters: Callable[[Asked], int]
    of_files: bool = False
    reads: tuple[str, ...] = ()
    documents: int | None = None
    mixed: bool = False
    conversations: bool = False
    seq_len: int = 1024
    vocab_size: int = 32_768
    target_sources: tuple[str, ...] = ()
