"""Mixes a pool for studies: text of several sources, source code, and text whose words are shuffled.

    python -m scripts.mix --texts mixed.jsonl.gz --out data/mix.jsonl.gz
    python -m scripts.mix --texts mixed.jsonl.gz --only plays verse --out data/plays.jsonl.gz   # a homogeneous pool
    python -m scripts.prepare --corpus json --data-files data/mix.jsonl.gz --source-field source --id-field id \\
        --target-sources plays verse --vocab-size 4096 --seq-len 128 --out data/mix

Every fourth document of every source has its words shuffled and becomes one of source `shuffled`: its words are
those of the rest of the pool, and only their order tells it apart. The source code is this Python installation's.
"""

import gzip
import json
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import tyro

from pipeline.atomic import replacing
from pipeline.corpora.document import Document
from pipeline.corpora.registry import read_corpus

SHUFFLED_EVERY = 4
CODE_CHARACTERS = 5_000_000


@dataclass(frozen=True)
class Mix:
    texts: Path
    """JSON Lines with the fields id, source and text (.gz too)."""
    out: Path
    """The JSON Lines to write, compressed."""
    only: tuple[str, ...] = ()
    """Sources to keep as they are, with nothing mixed in."""


def mixed(documents: list[Document], only: tuple[str, ...]) -> Iterator[Document]:
    """The documents of the pool, in their order. ValueError for a source in `only` that no document has."""
    if only:
        unknown = set(only) - {document.source for document in documents}
        if unknown:
            raise ValueError(f"no document has the source {', '.join(sorted(unknown))}")
        yield from (document for document in documents if document.source in only)
        return
    seen: Counter = Counter()
    for document in chain(documents, _code()):
        seen[document.source] += 1
        yield _shuffled(document) if seen[document.source] % SHUFFLED_EVERY == 0 else document


def _code() -> Iterator[Document]:
    characters = 0
    for document in read_corpus("installed-docs"):
        if document.source == "source" and characters < CODE_CHARACTERS:
            characters += len(document.text)
            yield document


def _shuffled(document: Document) -> Document:
    """Its words, each with the space before it, in an order drawn from its id."""
    words = re.findall(r"\s*\S+", document.text)
    random.Random(document.id).shuffle(words)
    return Document(f"shuffled:{document.id}", "".join(words), "shuffled")


def write(documents: Iterator[Document], out: Path) -> dict[str, int]:
    """Writes them, the same bytes for the same documents; characters by source."""
    characters: Counter = Counter()
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
        for document in documents:
            characters[document.source] += len(document.text)
            record = {"id": document.id, "source": document.source, "text": document.text}
            file.write((json.dumps(record) + "\n").encode())
    return dict(characters)


def main() -> int:
    mix = tyro.cli(Mix, description=__doc__)
    try:
        documents = list(read_corpus("json", [str(mix.texts)], text_field="text", id_field="id", source_field="source"))
        characters = write(mixed(documents, mix.only), mix.out)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    total = sum(characters.values())
    for source, count in sorted(characters.items(), key=lambda item: -item[1]):
        print(f"{source:>16} {count:>12,} characters {100 * count / total:5.1f} %")
    return 0


if __name__ == "__main__":
    sys.exit(main())
