"""Duplicates: what is dropped, what is counted, and that no text is in the pool and in a held-out split."""

import hashlib
import json
import random

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.corpora.document import Document
from pipeline.dataset.duplicates import FILE
from pipeline.mixture import digests as module
from pipeline.mixture.digests import Digests
from pipeline.mixture.screen import Screen
from pipeline.mixture.splits import SplitRule

FRACTIONS = {"seed": 0, "target": 0.2, "val": 0.2, "test": 0.2}
APART = SplitRule(**FRACTIONS, target_corpora=("mine",))
MEASURED = SplitRule(0, 0, 0.5, 0.5, target_corpora=("dev",), measured_corpora=("exam",))
SOURCES = SplitRule(**FRACTIONS, target_sources=("prose",))
ANY = SplitRule(**FRACTIONS)


def _screened(documents, rule, folder, mode="report", near=None):
    folder.mkdir(exist_ok=True)
    screen = Screen(rule, mode, near, folder)
    passed = list(screen.passed(iter(documents)))
    told = screen.finish(folder)
    assert {path.name for path in folder.iterdir()} <= {FILE}
    return passed, told


def _ids(documents):
    return [document.id for document in documents]


def test_a_digest_tells_texts_apart_but_for_white_space():
    folded = hashlib.blake2b("naïvetext".encode(), digest_size=8).digest()
    for text in ("naïve text", " naïve\r\n\ttext ", "naïvetext"):
        assert Document("", text, "").digest == int.from_bytes(folded, "big")
    assert (
        len({Document("", text, "").digest for text in ("naïve text", "naive text", "Naïve text", "text naïve")}) == 4
    )


def test_a_large_set_of_digests(monkeypatch):
    monkeypatch.setattr(module, "_FRESH", 50)
    draw = random.Random(0)
    numbers = [draw.choice([draw.getrandbits(64), draw.randrange(500), 2**64 - 1 - draw.randrange(500)])
               for _ in range(5_000)]  # fmt: skip
    ours, theirs = Digests(), set()
    for number in numbers:
        assert (number in ours) == (number in theirs)
        assert ours.add(number) == (number not in theirs)
        theirs.add(number)
    assert all(number in ours for number in theirs)
    assert np.all(ours._sorted[1:] > ours._sorted[:-1])
    assert len(ours._sorted) > 2_000


def test_what_waits_comes_back_whole(tmp_path):
    """Also which characters carry loss, where a document says so."""
    loss = [None, ((0, 4),), ((0, 1), (2, 6)), ()]
    code = [Document(f"c{i}", f"line {i}", "code", "web", loss=loss[i % 4]) for i in range(40)]
    waiting = [document for document in code if SOURCES.deals(document.digest) != "train"]
    passed, _ = _screened(code, SOURCES, tmp_path / "d")
    assert len(waiting) > 8
    assert _ids(passed[-len(waiting) :]) == _ids(waiting)
    assert {document.id: document.loss for document in passed} == {document.id: document.loss for document in code}


@pytest.mark.parametrize("mode", ["keep", "report", "drop"])
def test_the_pool_loses_what_target_corpora_hold(tmp_path, mode):
    target = [Document(f"t{i}", f"held out {i}", "mine", "mine") for i in range(20)]
    pool = [Document(f"p{i}", f"text {i}", "web", "web") for i in range(30)]
    pool += [Document(f"c{i}", f" held\n out {i}\n", "web", "web") for i in range(5)]
    passed, told = _screened([*target, *pool], APART, tmp_path / "d", mode)
    assert _ids(passed) == [*(f"t{i}" for i in range(20)), *(f"p{i}" for i in range(30))]
    assert [document.split for document in passed[20:]] == ["train"] * 30
    assert [document.split for document in passed[:20]] == [APART.deals(document.digest) for document in target]
    assert told["dropped_from_pool_as_held_out"] == 5


@pytest.mark.parametrize("mode", ["keep", "report", "drop"])
def test_the_target_loses_what_is_measured_and_the_pool_what_either_holds(tmp_path, mode):
    exam = [Document(f"e{i}", f"asked {i}", "e", "exam") for i in range(20)]
    dev = [Document(f"d{i}", f"shown {i}", "d", "dev") for i in range(9)]
    dev += [Document(f"x{i}", f"asked  {i}", "d", "dev") for i in range(3)]
    pool = [Document(f"p{i}", text, "web", "web") for i, text in enumerate(["asked 1", "shown 1", "other"])]
    passed, told = _screened([*exam, *dev, *pool], MEASURED, tmp_path / "d", mode)
    splits = {document.id: document.split for document in passed}
    assert splits == {f"e{i}": MEASURED.deals(exam[i].digest) for i in range(20)} | {
        f"d{i}": "target" for i in range(9)
    } | {"p2": "train"}
    assert {splits[f"e{i}"] for i in range(20)} == {"val", "test"}
    assert (told["dropped_from_target_as_measured"], told["dropped_from_pool_as_held_out"]) == (3, 2)


@pytest.mark.parametrize("mode", ["keep", "report", "drop"])
def test_the_pool_loses_what_target_sources_hold_whichever_comes_first(tmp_path, mode):
    code = [Document(f"c{i}", f"text {i}", "code") for i in range(400)]
    prose = [Document(f"p{i}", f"text  {i}", "prose") for i in range(0, 400, 4)]
    held_out = {document.digest for document in prose if SOURCES.split_of(document) != "train"}
    assert 40 < len(held_out) < 80
    for documents in ([*code, *prose], [*prose, *code]):
        passed, told = _screened(documents, SOURCES, tmp_path / "d", mode)
        assert told["dropped_from_pool_as_held_out"] == len(held_out)
        assert {document.digest for document in passed if document.split != "train"} == held_out
        clean = [document.id for document in documents if document.id[0] == "p" or document.digest not in held_out]
        if mode == "drop":
            assert len(passed) == len({document.digest for document in passed}) == 400
        else:
            assert sorted(_ids(passed)) == sorted(clean)


def test_copies_are_in_one_split(tmp_path):
    documents = [Document(f"d{i}", f"text {i % 50}", "any") for i in range(200)]
    passed, told = _screened(documents, ANY, tmp_path / "d")
    assert len(passed) == 200
    splits = {}
    for document in passed:
        splits.setdefault(document.text, set()).add(document.split)
    assert {len(found) for found in splits.values()} == {1}
    assert set.union(*splits.values()) == {"train", "target", "val", "test"}
    assert told["dropped_from_pool_as_held_out"] == 0


def test_duplicates_are_counted_and_listed(tmp_path):
    texts = ["a b", "c", "a  b", "d", "ab", "e", "d\n", "f"]
    documents = [Document(f"<ż{i}>", text, f"s{i % 2}") for i, text in enumerate(texts)]
    passed, told = _screened([*documents, Document("empty", "", "s0")], ANY, tmp_path / "d")
    assert _ids(passed) == [f"<ż{i}>" for i in range(8)]
    path = tmp_path / "d" / FILE
    assert told == {
        "mode": "report",
        "near": None,
        "dropped_from_pool_as_held_out": 0,
        "exact": 3,
        "like": 0,
        "groups": 2,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    rows = pq.read_table(path).to_pylist()
    groups = {}
    for row in rows:
        groups.setdefault(row["group"], []).append((row["document"], row["source"], row["split"]))
    split = {text: ANY.split_of(Document("", text, "")) for text in texts}
    assert sorted(groups.values()) == [
        [("<ż0>", "s0", split["a b"]), ("<ż2>", "s0", split["a b"]), ("<ż4>", "s0", split["a b"])],
        [("<ż3>", "s1", split["d"]), ("<ż6>", "s0", split["d"])],
    ]
    assert set(groups) == {0, 1}


def test_duplicates_are_dropped_or_not_looked_for(tmp_path):
    documents = [Document(f"d{i}", f"text {i % 30}", "any") for i in range(100)]
    passed, told = _screened(documents, ANY, tmp_path / "d", "drop")
    assert _ids(passed) == [f"d{i}" for i in range(30)]
    assert told == {
        "mode": "drop",
        "near": None,
        "dropped_from_pool_as_held_out": 0,
        "exact": 70,
        "like": 0,
    }
    passed, told = _screened(documents, ANY, tmp_path / "d", "keep")
    assert len(passed) == 100
    assert told == {"mode": "keep", "near": None, "dropped_from_pool_as_held_out": 0}
    assert list((tmp_path / "d").iterdir()) == []


def _like(draw, words, changed):
    """The words with every so manieth replaced by another: each change takes five of the runs of five away."""
    return [f"other{draw.random()}" if i % changed == changed // 2 else word for i, word in enumerate(words)]


@pytest.fixture
def kinds():
    """40 kinds of 3 documents: one, a near duplicate (Jaccard 0.82), and one that is less like it (0.43)."""
    draw = random.Random(0)
    documents = []
    for kind in range(40):
        words = [f"w{draw.randrange(10**6)}" for _ in range(500)]
        for name, text in (("first", words), ("near", _like(draw, words, 50)), ("far", _like(draw, words, 12))):
            documents.append(Document(f"{name}{kind}", " ".join(text), "prose" if name == "near" else "code"))
    return documents


def test_near_duplicates_are_one_group_and_in_one_split(kinds, tmp_path):
    passed, told = _screened(kinds, ANY, tmp_path / "d", near=0.7)
    assert (told["near"], told["exact"], told["like"], told["groups"]) == (0.7, 0, 40, 40)
    rows = pq.read_table(tmp_path / "d" / FILE).to_pylist()
    assert {row["document"] for row in rows} == {f"{name}{kind}" for name in ("first", "near") for kind in range(40)}
    split = {document.id: document.split for document in passed}
    assert all(split[f"near{kind}"] == split[f"first{kind}"] for kind in range(40))
    alone = {document.id: ANY.split_of(document) for document in kinds}
    assert any(alone[f"near{kind}"] != alone[f"first{kind}"] for kind in range(40))
    passed, told = _screened(kinds, ANY, tmp_path / "d", "drop", 0.7)
    assert (told["exact"], told["like"]) == (0, 40)
    assert len(passed) == 80


def test_the_pool_loses_near_duplicates_of_what_is_held_out(kinds, tmp_path):
    target = [Document(d.id, d.text, d.source, "mine") for d in kinds if d.id.startswith("near")]
    pool = [Document(d.id, d.text, d.source, "web") for d in kinds if not d.id.startswith("near")]
    passed, told = _screened([*target, *pool], APART, tmp_path / "d", near=0.7)
    assert told["dropped_from_pool_as_held_out"] == 40
    assert [d.id for d in passed if d.split == "train"] == [f"far{kind}" for kind in range(40)]


def test_the_target_loses_near_duplicates_of_what_is_measured(kinds, tmp_path):
    exam = [Document(d.id, d.text, d.source, "exam") for d in kinds if d.id.startswith("first")]
    dev = [Document(d.id, d.text, d.source, "dev") for d in kinds if not d.id.startswith("first")]
    passed, told = _screened([*exam, *dev], MEASURED, tmp_path / "d", near=0.7)
    assert told["dropped_from_target_as_measured"] == 40
    assert [d.id for d in passed if d.split == "target"] == [f"far{kind}" for kind in range(40)]


def test_a_missing_package_gets_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "rensa", None)
    with pytest.raises(ValueError, match="--near-duplicates needs the package rensa: pip install"):
        Screen(ANY, "report", 0.8, tmp_path)


def test_odd_texts_wait_and_come_back_as_they_were(tmp_path):
    texts = [f"{number} \u2028 \x00 \ud7ff 漢字 🎉 \r\n" for number in range(50)]
    documents = [Document(f"\n{i}", text, "code\t") for i, text in enumerate(texts)]
    passed, _ = _screened(documents, SOURCES, tmp_path / "d")
    assert sorted(json.dumps([d.id, d.text, d.source]) for d in passed) == sorted(
        json.dumps([d.id, d.text, d.source]) for d in documents
    )
    assert _ids(passed) != _ids(documents)  # some waited
