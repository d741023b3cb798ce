"""An evaluation's files: questions with their right answers, as conversations of one turn each."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from ..corpus import Corpus
from ..files import open_text
from .turns import SPEAKER, Conversation, conversations


class Item(NamedTuple):
    """A question. where: names it in an error. answers: the right ones, of which the first is learnt; choices: what
    there is to choose from, where it is a choice."""

    where: str
    id: str
    source: str
    prompt: str
    answers: tuple[str, ...]
    choices: tuple[str, ...] = ()


Items = Callable[[str, str, str], Iterator[Item]]  # (path, name before ids, the file's stem) -> the items of a file


def task(items: Items) -> Corpus:
    """The corpus of a reader of items. Loss is on the first answer."""
    return conversations(partial(_conversations, items))


def _conversations(items: Items, path: str, name: str, source: str) -> Iterator[Conversation]:
    for item in items(path, name, source):
        turns = [("user", item.prompt), (SPEAKER, item.answers[0])]
        yield Conversation(item.where, turns, {"id": item.id, "dataset": item.source})


def read_json(path: str) -> Any:
    """The one value of a JSON file. ValueError naming the file where it is none."""
    with open_text(path) as file:
        try:
            return json.load(file)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is no JSON ({error})") from None
