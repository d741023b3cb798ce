"""The studies' pools: what is in each, what is shuffled, what is kept, and the same bytes every time."""

import gzip
import itertools
import json
from collections import Counter

import pytest

from scripts.mix import __main__ as mix
from scripts.mix.__main__ import POOLS, main

INSTALLED = ("source", "docstrings", "licences", "descriptions")


@pytest.fixture
def texts(tmp_path, monkeypatch):
    """Texts of three sources, and three short files of every kind that is installed."""
    installed = [
        mix.Document(f"{s}/{i}", f"def f{i}():\n    return {i}\n" * 20, s) for s in INSTALLED for i in range(3)
    ]
    real = mix.read_corpus
    monkeypatch.setattr(
        mix, "read_corpus", lambda corpus, *a, **k: installed if corpus != "json" else real(corpus, *a, **k)
    )
    lines = [{"id": f"p{i}", "source": "plays", "text": f" one two.\n three {i} four five six seven"} for i in range(8)]
    lines += [{"id": f"v{i}", "source": "verse", "text": f"other text {i}"} for i in range(2)]
    lines += [{"id": f"m{i}", "source": "manual-pages", "text": f"a page {i} of many"} for i in range(3)]
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def read(path):
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["mix", *map(str, arguments)])
    return main()


def made(monkeypatch, texts, pool):
    out = texts.with_name(f"{pool}.jsonl.gz")
    assert run(monkeypatch, "--texts", texts, "--pool", pool, "--out", out) == 0
    return read(out)


def test_every_fourth_document_of_a_source_is_shuffled(texts, tmp_path, monkeypatch, capsys):
    out = tmp_path / "new" / "mix.jsonl.gz"
    assert run(monkeypatch, "--texts", texts, "--out", out) == 0
    documents = {document["id"]: document for document in read(out)}
    counts = Counter(d["source"] for d in documents.values())
    assert counts == {"plays": 6, "verse": 2, "manual-pages": 3, "source": 3, "shuffled": 2}
    assert "p3" not in documents
    shuffled = documents["shuffled:p3"]["text"]
    assert shuffled != " one two.\n three 3 four five six seven"
    assert Counter(shuffled.split()) == Counter("one two. three 3 four five six seven".split())
    assert documents["p0"]["text"] == " one two.\n three 0 four five six seven"
    assert "shuffled" in capsys.readouterr().out


@pytest.mark.parametrize("pool", POOLS)
def test_the_same_texts_make_the_same_bytes_and_no_id_twice(texts, tmp_path, monkeypatch, pool):
    documents = made(monkeypatch, texts, pool)
    ids = [document["id"] for document in documents]
    assert len(set(ids)) == len(ids)
    before = texts.with_name(f"{pool}.jsonl.gz").read_bytes()
    made(monkeypatch, texts, pool)
    assert texts.with_name(f"{pool}.jsonl.gz").read_bytes() == before


def test_a_pool_takes_documents_until_it_has_its_characters(texts, monkeypatch):
    plays = mix.read_sources(texts, "homogeneous")["plays"]
    assert [document.id for document in mix._some(plays, 2 * len(plays[0].text))] == ["p0", "p1"]
    assert {document["source"] for document in made(monkeypatch, texts, "homogeneous")} == {"plays", "verse"}


def test_known_and_two_distinct_share_no_play(monkeypatch):
    plays = [mix.Document(f"p{i}", "x" * 500_000, "plays") for i in range(6)]
    sources = {"plays": plays, "verse": [], "manual-pages": [], "source": [], "docstrings": [], "licences": []}
    of_each = [[d.id for d in POOLS[name](sources) if d.source == "plays"] for name in ("two-distinct", "known")]
    assert of_each == [["p0", "p1", "p2"], ["p3", "p4", "p5"]]


def test_sentences_stay_where_they_are_and_their_words_do_not():
    sentences = ["one two three four five six.", "seven eight nine ten eleven twelve."]
    words = mix._sentences_shuffled(mix.Document("p", " ".join(sentences), "plays")).text.split()
    assert words != " ".join(sentences).split()
    halves = [sorted(words[:6]), sorted(words[6:])]
    assert halves == [sorted(sentence.split()) for sentence in sentences]


def test_an_imitation_has_no_pair_of_words_that_the_texts_do_not_have(texts):
    plays = mix.read_sources(texts, "homogeneous")["plays"]
    pairs = {pair for d in plays for pair in zip(d.text.split(), d.text.split()[1:], strict=False)}
    for imitation in mix._imitations(plays, 10**6):
        words = imitation.text.split()
        ends = {d.text.split()[-1] for d in plays}
        assert all(pair in pairs or pair[0] in ends for pair in itertools.pairwise(words))
        assert len(imitation.text) >= len(plays[0].text)


def test_passages_are_repeated_and_no_longer_wanted_text(monkeypatch):
    plays = [mix.Document(f"p{i}", f"{i} " + "x" * 9000, "plays") for i in range(180)]
    documents = list(mix.repeated({"plays": plays, "source": [], "manual-pages": []}))
    copies = Counter(d.text for d in documents if d.source == "repeated")
    assert len(copies) == mix.PASSAGES
    assert set(copies.values()) == {mix.COPIES}
    assert {len(text) for text in copies} == {mix.PASSAGE_CHARACTERS}
    whole = {d.text[: mix.PASSAGE_CHARACTERS] for d in documents if d.source == "plays"}
    assert whole
    assert not whole & set(copies)


def test_texts_without_a_source_are_refused(texts, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out.jsonl.gz"
    few = tmp_path / "few.jsonl"
    few.write_text(json.dumps({"id": "v", "source": "verse", "text": "line"}) + "\n")
    assert run(monkeypatch, "--texts", few, "--out", out) == 2
    assert "few.jsonl has no document of source manual-pages, plays" in capsys.readouterr().err
    assert run(monkeypatch, "--texts", tmp_path / "missing", "--out", out) == 2
    assert "missing" in capsys.readouterr().err
    assert not out.exists()


def test_some_sources_of_a_pool(texts, tmp_path, monkeypatch, capsys):
    whole, out = made(monkeypatch, texts, "mixed"), tmp_path / "some.jsonl.gz"
    some = ("--texts", texts, "--out", out, "--sources", "verse", "manual-pages")
    assert run(monkeypatch, *some) == 0
    assert read(out) == [record for record in whole if record["source"] in ("verse", "manual-pages")]
    before = out.read_bytes()
    assert run(monkeypatch, *some, "nowhere") == 2
    assert capsys.readouterr().err == "error: the pool has no document of source nowhere: see --sources\n"
    assert out.read_bytes() == before
