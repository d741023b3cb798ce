"""Document, the unit that text comes in, and how a record of any corpus becomes one."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

_WHITESPACE = b" \t\n\r\v\f"


@dataclass(frozen=True)
class Document:
    """A text, where it comes from (`source`), and a name for it that stays the same from run to run (`id`).

    corpus: the name of its corpus where a dataset is made of several. loss: the stretches of the text that a model
    learns to say, as characters [first, last) in order; None: all of it. templated: a chat template wrote it, so what
    it says of special tokens are these tokens, the ends of turns among them. split: the one it is in, once that is
    decided.
    """

    id: str
    text: str
    source: str
    corpus: str = ""
    loss: tuple[tuple[int, int], ...] | None = None
    templated: bool = False
    split: str = ""

    @cached_property
    def digest(self) -> int:
        """64 bits of the text's BLAKE2b without its ASCII white space: equal for texts that differ in nothing else."""
        folded = self.text.encode().translate(None, _WHITESPACE)
        return int.from_bytes(hashlib.blake2b(folded, digest_size=8).digest(), "big")


def encodable(text: str) -> str:
    """The text with '?' for halves of surrogate pairs, which JSON and Python can hold but no encoding can."""
    return text.encode("utf-8", "replace").decode("utf-8")


@dataclass(frozen=True)
class Fields:
    """The names of the fields of a record that hold a document's parts; None: make up a default."""

    text: str = "text"
    id: str | None = None
    source: str | None = None

    def document(self, record: dict, where: str, fallback_id: str, fallback_source: str) -> Document:
        """The document in `record`; `where` names the record in a ValueError when a field is missing or wrong."""
        text = self._value(record, self.text, "--text-field", where)
        if not isinstance(text, str):
            raise ValueError(f"{where}: field '{self.text}' is no text but {type(text).__name__}")
        name = self._value(record, self.id, "--id-field", where) if self.id else fallback_id
        source = self._value(record, self.source, "--source-field", where) if self.source else fallback_source
        if not isinstance(name, str | int) or not isinstance(source, str | int):
            raise ValueError(f"{where}: the fields for id and source must be texts or whole numbers")
        return Document(encodable(str(name)), encodable(text), encodable(str(source)))

    @staticmethod
    def _value(record: dict, field: str, option: str, where: str):
        if field not in record:
            raise ValueError(f"{where} has no field '{field}' (it has {', '.join(record)}): see {option}")
        return record[field]
