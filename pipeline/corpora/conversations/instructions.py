"""Conversations to learn answers from, from JSON Lines on this machine.

A record has `messages` (LESS: dataset, id, messages), each a `role` and a `content`; or `prompt` and `completion`; or
Alpaca's `instruction`, `input` and `output`.
"""

from collections.abc import Iterator

from ..files import json_records
from .turns import ROLES, SPEAKER, Conversation, Turn, conversations, text_of


def turns_of(record: dict, where: str) -> list[Turn]:
    """The turns of a record of one of the three forms. ValueError, naming the record by `where`, where it has none, or
    an unknown role, or nothing that the assistant says."""
    if "messages" in record:
        turns = _of_messages(record["messages"], where)
    elif "prompt" in record and "completion" in record:
        turns = [("user", text_of(record, "prompt", where)), (SPEAKER, text_of(record, "completion", where))]
    elif "instruction" in record and "output" in record:
        asked = [text_of(record, "instruction", where), text_of({"input": ""} | record, "input", where)]
        turns = [("user", "\n\n".join(filter(None, asked))), (SPEAKER, text_of(record, "output", where))]
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
        turns.append((role, text_of(message, "content", f"{where}, message {number}")))
    return turns


def _read(path: str, name: str, source: str) -> Iterator[Conversation]:
    for number, (where, record) in enumerate(json_records(path)):
        yield Conversation(where, turns_of(record, where), {"dataset": source, "id": f"{name}:{number}"} | record)


INSTRUCTIONS = conversations(_read, reads=("source_field", "id_field"))
