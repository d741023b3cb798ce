"""Pools of questions and answers, made of the same texts, and the tasks that they are to help with.

    talks        what a page of the manual is about (some 2 %: `manual`), what its sections say, replies in plays, lines
                 of verse to go on with; and `shuffled`, questions about pages that are answered by words in no order.
    talks-task   what the other pages of the manual are about.
    again        saying words again, those of the manual (10 %: `again`); and `other`, the same request about words of
                 plays, answered by other words of plays; replies, and what sections say.
    again-task   saying words of plays again. A filter by words likes `other`, which teaches the wrong thing.

T is small: questions and answers are cut to some 200 characters.
"""

import random
import re
from collections.abc import Callable, Iterator

from pipeline.corpora.document import Document

Sources = dict[str, list[Document]]
Record = dict[str, str]

LONGEST = 200  # characters of an answer
SAID_AGAIN = 6  # words


def talks(sources: Sources) -> Iterator[Record]:
    about, draw = _about(sources), random.Random("talks")
    pages = about[::2]
    yield from (_record("manual", f"What does {name} do?", answer) for name, answer in pages)
    yield from _sections(sources, 1_000)
    yield from _replies(sources, 2_600)
    yield from _lines(sources, 1_000)
    words = [answer.split() for _, answer in pages]
    for number in range(1_600):
        name, _ = pages[number % len(pages)]
        mixed = [*draw.choice(words), *draw.choice(words)]
        draw.shuffle(mixed)
        yield _record("shuffled", f"What does {name} do?", " ".join(mixed[: len(mixed) // 2 + 1]))


def talks_task(sources: Sources) -> Iterator[Record]:
    yield from (_record("manual", f"What does {name} do?", answer) for name, answer in _about(sources)[1::2])


def again(sources: Sources) -> Iterator[Record]:
    manual, plays, draw = _words(sources, "manual-pages"), _words(sources, "plays"), random.Random("again")
    yield from _requests("again", (draw.sample(manual, SAID_AGAIN) for _ in range(650)))
    for _ in range(1_950):
        asked, answered = draw.sample(plays, SAID_AGAIN), draw.sample(plays, SAID_AGAIN)
        yield _record("other", f"Say again: {' '.join(asked)}", " ".join(answered))
    yield from _replies(sources, 2_600)
    yield from _sections(sources, 1_300)


def again_task(sources: Sources) -> Iterator[Record]:
    plays, draw = _words(sources, "plays"), random.Random("again-task")
    yield from _requests("again", (draw.sample(plays, SAID_AGAIN) for _ in range(320)))


TALKS: dict[str, Callable[[Sources], Iterator[Record]]] = {
    "talks": talks,
    "talks-task": talks_task,
    "again": again,
    "again-task": again_task,
}


def _record(source: str, prompt: str, completion: str) -> Record:
    """With the words of a prompt and an answer parted by single spaces."""
    prompt, completion = " ".join(prompt.split()), " ".join(completion.split())
    return {"dataset": source, "prompt": prompt, "completion": completion[:LONGEST].rstrip()}


def _requests(source: str, said: Iterator[list[str]]) -> Iterator[Record]:
    yield from (_record(source, f"Say again: {' '.join(words)}", " ".join(words)) for words in said)


def _about(sources: Sources) -> list[tuple[str, str]]:
    """(name, what it does) of every page of the manual that says so in a line of its own."""
    found = {}
    for document in sources["manual-pages"]:
        said = re.search(r"^NAME\n(\S+) - (.+)\n", document.text, re.MULTILINE)
        if said and said.group(2) not in found.values():
            found[said.group(1)] = said.group(2)
    return list(found.items())


def _sections(sources: Sources, most: int) -> Iterator[Record]:
    """How sections of the manual begin, but for those that name the page."""
    left = most
    for document in sources["manual-pages"]:
        parts = re.split(r"^([A-Z][A-Z ]+)\n", document.text, flags=re.MULTILINE)
        for title, text in zip(parts[1::2], parts[2::2], strict=True):
            if left and title not in ("NAME", "LIBRARY", "SYNOPSIS", "SEE ALSO") and len(text) > LONGEST:
                left -= 1
                page = document.id.partition(".")[0]
                yield _record("sections", f"What does the manual of {page} say under {title}?", text)


def _replies(sources: Sources, most: int) -> Iterator[Record]:
    """A speech of a play, and what is said to it."""
    left = most
    for document in sources["plays"]:
        speeches = re.findall(r"^[A-Z][A-Z ]+\.\n((?:.+\n)+)", document.text, re.MULTILINE)
        for speech, reply in zip(speeches[::2], speeches[1::2], strict=False):
            if left and len(speech) < LONGEST:
                left -= 1
                yield _record("replies", speech, reply)


def _lines(sources: Sources, most: int) -> Iterator[Record]:
    """Two lines, and the two that follow."""
    left = most
    for document in sources["verse"]:
        lines = [line for line in document.text.split("\n") if line.strip()]
        for at in range(0, len(lines) - 3, 8):
            if left:
                left -= 1
                yield _record("verse", "\n".join(lines[at : at + 2]), "\n".join(lines[at + 2 : at + 4]))


def _words(sources: Sources, source: str) -> list[str]:
    """The words of a source that come in more than one of its documents, sorted; none that plays and manual share."""
    own = _seen(sources[source])
    other = _seen(sources["plays" if source == "manual-pages" else "manual-pages"])
    return sorted(own - other)


def _seen(documents: list[Document]) -> set[str]:
    counts: dict[str, int] = {}
    for document in documents:
        for word in set(re.findall(r"\b[a-z]{3,8}\b", document.text)):
            counts[word] = counts.get(word, 0) + 1
    return {word for word, documents_with_it in counts.items() if documents_with_it > 1}
