"""Conversations to learn answers from, from JSON Lines on this machine; loss is on what the assistant says alone.

A record has `messages` (LESS: dataset, id, messages), each a `role` and a `content`; or `prompt` and `completion`; or
Alpaca's `instruction`, `input` and `output`. It is written as LESS and Open-Instruct do (arXiv 2402.04333), white space
around contents left out:

    <|user|>
    {content}
    <|assistant|>
    {content}<|endoftext|>

The packer puts in the end after each of the assistant's turns; it is no part of the text.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from .corpus import Corpus
from .document import Document, Fields, encodable
from .files import characters_of_files, json_records, read_files

ROLES = ("system", "user", "assistant")
SPEAKER = "assistant"  # whose turns carry loss

Turn = tuple[str, str]  # role and content


def render(turns: list[Turn]) -> tuple[str, tuple[tuple[int, int], ...]]:
    """The text of a conversation, and the characters [first, last) of each of the assistant's contents."""
    text, loss = "", []
    for role, content in turns:
        text += f"<|{role}|>\n"
        if role == SPEAKER:
            loss.append((len(text), len(text) + len(content)))
        text += f"{content}\n"
    return text, tuple(loss)


def turns_of(record: dict, where: str) -> list[Turn]:
    """The turns of a record of one of the three forms. ValueError, naming the record by `where`, where it has none, or
    an unknown role, or nothing that the assistant says."""
    if "messages" in record:
        turns = _of_messages(record["messages"], where)
    elif "prompt" in record and "completion" in record:
        turns = [("user", _text(record, "prompt", where)), (SPEAKER, _text(record, "completion", where))]
    elif "instruction" in record and "output" in record:
        asked = [_text(record, "instruction", where), _text({"input": ""} | record, "input", where)]
        turns = [("user", "\n\n".join(filter(None, asked))), (SPEAKER, _text(record, "output", where))]
    else:
        raise ValueError(
            f"{where} is no conversation: messages, or prompt and completion, or instruction and output are expected "
            f"(it has {', '.join(record) or 'nothing'})"
        )
    if not any(content for _, content in turns):
        raise ValueError(f"{where} is an empty conversation: take it out")
    if not any(role == SPEAKER for role, _ in turns):
        raise ValueError(f"{where} has no turn of the role '{SPEAKER}': there is nothing to learn from it, take it out")
    return turns


def _of_messages(messages, where: str) -> list[Turn]:
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise ValueError(f"{where}: messages must be a list of objects with role and content")
    turns = []
    for number, message in enumerate(messages, start=1):
        role = message.get("role")
        if role not in ROLES:
            raise ValueError(f"{where}, message {number}: unknown role {role!r}; the roles are {', '.join(ROLES)}")
        turns.append((role, _text(message, "content", f"{where}, message {number}")))
    return turns


def _text(record: dict, field: str, where: str) -> str:
    if not isinstance(record.get(field), str):
        raise ValueError(f"{where}: field '{field}' is no text but {type(record.get(field)).__name__}")
    return encodable(record[field]).strip()


def _read(path: str, name: str, source: str, fields: Fields) -> Iterator[Document]:
    for number, (where, record) in enumerate(json_records(path)):
        text, loss = render(turns_of(record, where))
        told = {"dataset": source, "id": f"{name}:{number}"} | record | {"text": text}
        named = Fields("text", fields.id or "id", fields.source or "dataset")
        yield replace(named.document(told, where, "", ""), loss=loss)


INSTRUCTIONS = Corpus(
    partial(read_files, reader=_read),
    partial(characters_of_files, packed=False),
    of_files=True,
    reads=("source_field", "id_field"),
    conversations=True,
)
