"""SAMSum (arXiv 1911.12237): its JSON files, each a list of {id, dialogue, summary}."""

from collections.abc import Iterator

from .task import Item, read_json, task
from .turns import text_of


def items(path: str, name: str, source: str) -> Iterator[Item]:
    """ValueError naming the file, and the dialogue where it is one that is at fault."""
    told = read_json(path)
    if not isinstance(told, list) or not all(isinstance(record, dict) for record in told):
        raise ValueError(f"{path} is no list of objects with dialogue and summary")
    for number, record in enumerate(told, start=1):
        where = f"{path}, dialogue {number}"
        dialogue = text_of(record, "dialogue", where).replace("\r\n", "\n")
        prompt = f"Summarize the dialogue.\n\n{dialogue}"
        yield Item(where, f"{name}:{record.get('id', number)}", source, prompt, (text_of(record, "summary", where),))


SAMSUM = task(items)
