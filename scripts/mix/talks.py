"""Pools of questions and answers, made of the same texts, and the tasks that they are to help with.

    talks        what a page of the manual is about (some 2 %: `manual`), what its sections say, replies in plays, lines
                 of verse to go on with; and `shuffled`, questions about pages that are answered by words in no order.
    stutter      the same with `over` in place of `shuffled`: questions about pages, answered by how another answer
                 begins, over and over up to its length. To a filter by words these are like the task.
    talks-task   what the other pages of the manual are about, the task of both.

T is small: questions and answers are cut to some 200 characters.
"""

import random
import re
from collections.abc import Callable, Iterator
from itertools import cycle, islice

from pipeline.corpora.document import Document

Sources = dict[str, list[Document]]
Record = dict[str, str]

LONGEST = 200  # characters of an answer


def talks(sources: Sources) -> Iterator[Record]:
    draw = random.Random("talks")
    yield from _common(sources)
    words = [answer.split() for _, answer in _asked(sources)]
    for name, _ in _many(_asked(sources)):
        mixed = [*draw.choice(words), *draw.choice(words)]
        draw.shuffle(mixed)
        yield _record("shuffled", f"What does {name} do?", " ".join(mixed[: len(mixed) // 2 + 1]))


def stutter(sources: Sources) -> Iterator[Record]:
    draw = random.Random("stutter")
    yield from _common(sources)
    answers = [answer.split() for _, answer in _asked(sources)]
    for name, _ in _many(_asked(sources)):
        said = draw.choice(answers)
        over = islice(cycle(said[: len(said) // 3 + 1]), len(said))
        yield _record("over", f"What does {name} do?", " ".join(over))


def talks_task(sources: Sources) -> Iterator[Record]:
    yield from (_record("manual", f"What does {name} do?", answer) for name, answer in _about(sources)[1::2])


TALKS: dict[str, Callable[[Sources], Iterator[Record]]] = {
    "talks": talks,
    "stutter": stutter,
    "talks-task": talks_task,
}


def _record(source: str, prompt: str, completion: str) -> Record:
    """With the words of a prompt and an answer parted by single spaces."""
    prompt, completion = " ".join(prompt.split()), " ".join(completion.split())
    return {"dataset": source, "prompt": prompt, "completion": completion[:LONGEST].rstrip()}


def _common(sources: Sources) -> Iterator[Record]:
    """What both pools hold."""
    yield from (_record("manual", f"What does {name} do?", answer) for name, answer in _asked(sources))
    yield from _sections(sources, 1_000)
    yield from _replies(sources, 2_600)
    yield from _lines(sources, 1_000)


def _asked(sources: Sources) -> list[tuple[str, str]]:
    """The pages that pools ask about; the others are the task's."""
    return _about(sources)[::2]


def _many(pages: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    return islice(cycle(pages), 1_600)


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
