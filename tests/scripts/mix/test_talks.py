"""Pools of questions and answers: what is asked, what is answered, and that a task and its pool share no question."""

from collections import Counter

import pytest

from pipeline.corpora.document import Document
from scripts.mix.talks import LONGEST, TALKS

PAGE = "NAME\nopen{0} - open{0} and possibly create{0}\nSYNOPSIS\nint open();\nDESCRIPTION\n"
PAGE += "the{1} same words go on\n" * 12
OLD = " sooth marry prithee wither thither anon"
PLAY = "KING.\nWhat say you?\n\nFOOL.\nNothing {0}, my{1} lord.\n\n" * 3


@pytest.fixture
def sources():
    pages = [Document(f"open{n}.2", PAGE.format("abcdefghijklmnopqrst"[n] * 3, n), "manual-pages") for n in range(20)]
    plays = [Document(f"p{n}", PLAY.format("here", n) + OLD, "plays") for n in range(9)]
    verse = [Document("v", "\n".join(f"line {n}" for n in range(40)), "verse")]
    return {"manual-pages": pages, "plays": plays, "verse": verse}


def test_a_pool_and_its_task_share_no_question(sources):
    for pool, task in (("talks", "talks-task"), ("again", "again-task")):
        wanted = [record for record in TALKS[pool](sources) if record["dataset"] in ("manual", "again")]
        held_out = list(TALKS[task](sources))
        assert wanted
        assert held_out
        assert {r["dataset"] for r in held_out} == {r["dataset"] for r in wanted}
        assert not {r["prompt"] for r in held_out} & {r["prompt"] for r in wanted}


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


def test_words_said_again_are_those_of_one_source_and_others_are_not_said_again(sources):
    by_source = Counter()
    for record in TALKS["again"](sources):
        by_source[record["dataset"]] += 1
        asked = record["prompt"].removeprefix("Say again: ").split()
        if record["dataset"] == "again":
            assert record["completion"].split() == asked
        if record["dataset"] == "other":
            assert set(asked) <= {*OLD.split(), "say", "you", "here", "lord"}
            assert set(record["completion"].split()) <= {*OLD.split(), "say", "you", "here", "lord"}
    assert by_source["again"] / by_source["other"] == pytest.approx(1 / 3)
