"""Pools of questions and answers: what is asked, what is answered, and that a task and its pool share no question."""

import pytest

from pipeline.corpora.document import Document
from scripts.mix.talks import LONGEST, TALKS

PAGE = "NAME\nopen{0} - open{0} and possibly create{0}\nSYNOPSIS\nint open();\nDESCRIPTION\n"
PAGE += "the{1} same words go on\n" * 12
PLAY = "KING.\nWhat say you?\n\nFOOL.\nNothing {0}, my{1} lord.\n\n" * 3


@pytest.fixture
def sources():
    pages = [Document(f"open{n}.2", PAGE.format("abcdefghijklmnopqrst"[n] * 3, n), "manual-pages") for n in range(20)]
    plays = [Document(f"p{n}", PLAY.format("here", n), "plays") for n in range(9)]
    verse = [Document("v", "\n".join(f"line {n}" for n in range(40)), "verse")]
    return {"manual-pages": pages, "plays": plays, "verse": verse}


@pytest.mark.parametrize("pool", ["talks", "stutter"])
def test_a_pool_and_its_task_share_no_question(sources, pool):
    asked = {record["prompt"] for record in TALKS[pool](sources)}
    held_out = list(TALKS["talks-task"](sources))
    assert {record["dataset"] for record in held_out} == {"manual"}
    assert len(held_out) == 10
    assert not {record["prompt"] for record in held_out} & asked


@pytest.mark.parametrize("pool", TALKS)
def test_answers_are_short_and_the_same_every_time(sources, pool):
    records = list(TALKS[pool](sources))
    assert records == list(TALKS[pool](sources))
    assert all(0 < len(record["completion"]) <= LONGEST and record["prompt"] for record in records)


def test_what_is_asked_and_answered(sources):
    first = {}
    for record in TALKS["talks"](sources):
        first.setdefault(record["dataset"], record)
    assert first["manual"]["prompt"] == "What does openaaa do?"
    assert first["manual"]["completion"] == "openaaa and possibly createaaa"
    assert first["sections"]["prompt"] == "What does the manual of open0 say under DESCRIPTION?"
    assert first["sections"]["completion"].startswith("the0 same words go on the0")
    assert (first["replies"]["prompt"], first["replies"]["completion"]) == ("What say you?", "Nothing here, my0 lord.")
    assert (first["verse"]["prompt"], first["verse"]["completion"]) == ("line 0 line 1", "line 2 line 3")
    pages = {word for r in TALKS["talks"](sources) if r["dataset"] == "manual" for word in r["completion"].split()}
    assert set(first["shuffled"]["completion"].split()) <= pages


def test_beginnings_of_answers_that_are_said_over_and_over(sources):
    records = list(TALKS["stutter"](sources))
    over = [record["completion"] for record in records if record["dataset"] == "over"]
    answers = [record["completion"].split() for record in records if record["dataset"] == "manual"]
    assert len(over) == 1_600
    # open... and possibly create...: four words, of which two are said.
    assert set(over) == {" ".join([*answer[:2], *answer[:2]]) for answer in answers}
