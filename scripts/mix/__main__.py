"""Makes the pools that selection is studied on, of text of several sources and of what is on every machine.

    python -m scripts.mix --texts mixed.jsonl.gz --out data/mix.jsonl.gz
    python -m scripts.mix --texts mixed.jsonl.gz --pool two-wanted --out data/two.jsonl.gz
    python -m scripts.prepare --corpus json --data-files data/mix.jsonl.gz --source-field source --id-field id \\
        --target-sources plays verse --vocab-size 4096 --seq-len 128 --out data/mix

`--texts` has the sources plays, verse and manual-pages; source code, docstrings, licences and descriptions are those of
this Python installation. The pools, and what is wanted of each:

    mixed        plays and verse among manual pages and source code. Every fourth document of every source has its
                 words shuffled: its words are those of the rest, and only their order tells it apart.
    homogeneous  plays and verse, and nothing else: there is nothing to choose.
    two-wanted   plays, unlike all the rest, and docstrings, which are much like the source code around them.
    two-distinct plays and manual pages, each unlike all the rest.
    known        plays alone, those that neither of these two has: for a model that knows one of two wanted sources.
    alike        plays among plays whose sentences have their words shuffled, and text of a bigram model of plays.
    repeated     plays (12 %) among source code and manual pages; a third of the pool is 60 passages over and over.

Pools of questions and answers, for `--corpus instructions`, and their tasks, for its `--target-files`, are described in
talks.py: talks and stutter, and their task, talks-task.
"""

import gzip
import json
import random
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Literal

import tyro

from pipeline.atomic import replacing
from pipeline.corpora.document import Document
from pipeline.mixture.registry import read_corpus
from scripts.mix.talks import TALKS

SHUFFLED_EVERY = 4
CODE_CHARACTERS = 5_000_000
PASSAGES, PASSAGE_CHARACTERS, COPIES = 60, 2_000, 17

Sources = dict[str, list[Document]]


def mixed(sources: Sources) -> Iterator[Document]:
    """All of the texts, and CODE_CHARACTERS of source code, in the order of their sources."""
    seen: Counter = Counter()
    texts = chain(sources["plays"], sources["verse"], sources["manual-pages"])
    for document in chain(texts, _some(sources["source"], CODE_CHARACTERS)):
        seen[document.source] += 1
        yield _shuffled(document) if seen[document.source] % SHUFFLED_EVERY == 0 else document


def homogeneous(sources: Sources) -> Iterator[Document]:
    yield from chain(sources["plays"], sources["verse"])


def two_wanted(sources: Sources) -> Iterator[Document]:
    yield from _some(sources["plays"], 1_500_000)
    yield from _some(sources["docstrings"], 1_500_000)
    yield from _some(sources["source"], 4_000_000)
    yield from _some(sources["manual-pages"], 2_000_000)
    yield from chain(sources["licences"], sources["verse"], sources["descriptions"])
    for source in ("plays", "docstrings"):
        yield from map(_shuffled, _some(reversed(sources[source]), 500_000))


def known(sources: Sources) -> Iterator[Document]:
    yield from sources["plays"][len(list(_some(sources["plays"], 1_500_000))) :]


def two_distinct(sources: Sources) -> Iterator[Document]:
    yield from _some(sources["plays"], 1_500_000)
    yield from _some(sources["manual-pages"], 1_200_000)
    yield from _some(sources["source"], 3_000_000)
    yield from _some(sources["docstrings"], 2_000_000)
    yield from chain(sources["licences"], sources["verse"])
    yield from map(_shuffled, _some(reversed(sources["manual-pages"]), 600_000))


def alike(sources: Sources) -> Iterator[Document]:
    plays = list(_some(sources["plays"], 1_500_000))
    yield from plays
    yield from map(_sentences_shuffled, _some(sources["plays"][len(plays) :], 1_750_000))
    yield from _imitations(sources["plays"], 1_750_000)


def repeated(sources: Sources) -> Iterator[Document]:
    plays, apart = sources["plays"], max(2, len(sources["plays"]) // PASSAGES)
    for copy in range(COPIES):
        for number, document in enumerate(plays[::apart][:PASSAGES]):
            yield Document(f"repeated:{number}:{copy}", document.text[:PASSAGE_CHARACTERS], "repeated")
    yield from _some((document for number, document in enumerate(plays) if number % apart), 720_000)
    yield from _some(sources["source"], 2_000_000)
    yield from _some(sources["manual-pages"], 1_300_000)


POOLS: dict[str, Callable[[Sources], Iterator[Document]]] = {
    "mixed": mixed,
    "homogeneous": homogeneous,
    "two-wanted": two_wanted,
    "known": known,
    "two-distinct": two_distinct,
    "alike": alike,
    "repeated": repeated,
}
OF_TEXTS_ALONE = {"homogeneous", "known", "alike", *TALKS}


@dataclass(frozen=True)
class Mix:
    texts: Path
    """JSON Lines with the fields id, source and text (.gz too)."""
    out: Path
    """The JSON Lines to write, compressed."""
    pool: Literal[tuple(POOLS | TALKS)] = "mixed"  # type: ignore[valid-type]
    """Which pool to make."""
    sources: tuple[str, ...] = ()
    """Only documents of these sources of the pool; default: all."""


def read_sources(texts: Path, pool: str) -> Sources:
    """The documents that a pool is made of, by source. ValueError for a source that the texts lack."""
    sources: Sources = defaultdict(list)
    read = read_corpus("json", [str(texts)], text_field="text", id_field="id", source_field="source")
    for document in read if pool in OF_TEXTS_ALONE else chain(read, read_corpus("installed-docs")):
        sources[document.source].append(document)
    if missing := {"plays", "verse", "manual-pages"} - set(sources):
        raise ValueError(f"{texts} has no document of source {', '.join(sorted(missing))}, which the pools are made of")
    return sources


def _some(documents: Iterable[Document], characters: int) -> Iterator[Document]:
    """The first of them, until there are so many characters."""
    taken = 0
    for document in documents:
        if taken >= characters:
            return
        taken += len(document.text)
        yield document


def _words(text: str) -> list[str]:
    """Each with the space before it; the first has one too, so that it may come anywhere."""
    words = re.findall(r"\s*\S+", text)
    return [words[0] if words[0][0].isspace() else f" {words[0]}", *words[1:]] if words else []


def _shuffled(document: Document) -> Document:
    """Its words, each with the space before it, in an order drawn from its id."""
    words = _words(document.text)
    random.Random(document.id).shuffle(words)
    return Document(f"shuffled:{document.id}", "".join(words), "shuffled")


def _sentences_shuffled(document: Document) -> Document:
    """Its sentences in their order, the words of each shuffled."""
    draw, parts = random.Random(document.id), []
    for sentence in re.split(r"(?<=[.!?;:])(?=\s)", document.text):
        words = _words(sentence)
        draw.shuffle(words)
        parts += words
    return Document(f"shuffled:{document.id}", "".join(parts), "shuffled")


def _imitations(documents: list[Document], characters: int) -> Iterator[Document]:
    """As many documents, each as long as one of these, drawn from the bigrams of all their words."""
    after = defaultdict(list)
    for document in documents:
        words = _words(document.text)
        for word, following in pairwise(words):
            after[word].append(following)
    starts = list(after)
    for document in _some(documents, characters):
        draw, words, length = random.Random(document.id), [], 0
        while length < len(document.text):
            word = draw.choice(after.get(words[-1], starts) if words else starts)
            words.append(word)
            length += len(word)
        yield Document(f"imitation:{document.id}", "".join(words), "imitation")


def records_of(pool: str, sources: Sources) -> Iterator[dict[str, str]]:
    """The lines of a pool."""
    if pool in TALKS:
        yield from TALKS[pool](sources)
    else:
        for document in POOLS[pool](sources):
            yield {"id": document.id, "source": document.source, "text": document.text}


def of_sources(records: Iterable[dict[str, str]], sources: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """Those of the sources. ValueError for a source that no record has."""
    missing = set(sources)
    for record in records:
        source = record["dataset" if "dataset" in record else "source"]
        missing.discard(source)
        if not sources or source in sources:
            yield record
    if missing:
        raise ValueError(f"the pool has no document of source {', '.join(sorted(missing))}: see --sources")


def write(records: Iterator[dict[str, str]], out: Path) -> dict[str, int]:
    """Writes them, the same bytes for the same records; characters by source."""
    characters: Counter = Counter()
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
        for record in records:
            source = record["dataset" if "dataset" in record else "source"]
            characters[source] += sum(len(record.get(key, "")) for key in ("text", "prompt", "completion"))
            file.write((json.dumps(record) + "\n").encode())
    return dict(characters)


def main() -> int:
    mix = tyro.cli(Mix, description=__doc__)
    try:
        records = records_of(mix.pool, read_sources(mix.texts, mix.pool))
        characters = write(of_sources(records, mix.sources), mix.out)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    total = sum(characters.values())
    for source, count in sorted(characters.items(), key=lambda item: -item[1]):
        print(f"{source:>16} {count:>12,} characters {100 * count / total:5.1f} %")
    return 0


if __name__ == "__main__":
    sys.exit(main())
