"""The turns of a conversation, and how they become a document: the text, and which of it carries loss.

By default they are written as LESS and Open-Instruct do (arXiv 2402.04333), white space around contents left out:

    <|user|>
    {content}
    <|assistant|>
    {content}<|endoftext|>

The packer puts in the end (the tokenizer's own end of text) after each of the assistant's turns; it is no part of the
text. Or by a chat template (chat_template.py), which writes the ends itself.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple, Protocol

from ..corpus import Asked, Corpus
from ..document import Document, Fields, encodable
from ..files import characters_of_files, read_files
from .chat_template import SPEAKER, ChatTemplate

ROLES = ("system", "user", SPEAKER)

Turn = tuple[str, str]  # role and content


class Conversation(NamedTuple):
    """What a reader finds. where: names its record in an error. told: fields of the record that may name its id and
    source, by default `id` and `dataset`."""

    where: str
    turns: list[Turn]
    told: dict


class Writer(Protocol):
    """How a conversation becomes text."""

    templated: bool

    def write(self, turns: list[Turn], where: str) -> tuple[str, tuple[tuple[int, int], ...]]:
        """The text, and its characters [first, last) that carry loss. ValueError naming `where`."""

    def prompt(self, turns: list[Turn]) -> str:
        """The text up to where the assistant begins to answer."""


class LessForm:
    """As LESS writes them."""

    templated = False

    def write(self, turns: list[Turn], where: str) -> tuple[str, tuple[tuple[int, int], ...]]:
        text, loss = "", []
        for role, content in turns:
            text += f"<|{role}|>\n"
            if role == SPEAKER:
                loss.append((len(text), len(text) + len(content)))
            text += f"{content}\n"
        return text, tuple(loss)

    def prompt(self, turns: list[Turn]) -> str:
        return f"{self.write(turns, '')[0]}<|{SPEAKER}|>\n"


def writer_of(chat_template: str | None) -> Writer:
    """ValueError where a chat template is asked for that cannot be had."""
    return ChatTemplate.of(chat_template) if chat_template else LessForm()


def text_of(record: dict, field: str, where: str) -> str:
    """A field of a record without the white space around it. ValueError, naming `where`, where it is no text."""
    if not isinstance(record.get(field), str):
        raise ValueError(f"{where}: field '{field}' is no text but {type(record.get(field)).__name__}")
    return encodable(record[field]).strip()


def conversations(read: Callable[[str, str, str], Iterator[Conversation]], reads: tuple[str, ...] = ()) -> Corpus:
    """A corpus of files of conversations.

    read: (path, name before ids, source) -> what it finds in the file. reads: what it reads of `Asked` besides.
    """
    return Corpus(
        partial(_documents, read),
        partial(characters_of_files, packed=False),
        of_files=True,
        reads=("chat_template", *reads),
        conversations=True,
    )


def _documents(read, asked: Asked) -> Iterator[Document]:
    writer = writer_of(asked.chat_template)  # now, so that what is wrong with it is told at once

    def documents(path: str, name: str, source: str, fields: Fields) -> Iterator[Document]:
        named = Fields("text", fields.id or "id", fields.source or "dataset")
        for where, turns, told in read(path, name, source):
            text, loss = writer.write(turns, where)
            document = named.document(told | {"text": text}, where, "", "")
            yield replace(document, loss=loss, templated=writer.templated)

    return read_files(asked, documents)
