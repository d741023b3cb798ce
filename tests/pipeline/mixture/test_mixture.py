"""How much is taken of every corpus, and which documents."""

import dataclasses
import json
import random

import pytest

from pipeline.corpora.corpus import Asked
from pipeline.mixture import mixture as module
from pipeline.mixture.ingredients import Ingredient
from pipeline.mixture.mixture import Mixture
from pipeline.mixture.registry import CORPORA


@pytest.fixture
def corpora(tmp_path):
    """Documents of 50 to 150 characters: 2,000 of `a`, 500 of `b`, 40 of `c`."""
    draw = random.Random(0)
    for name, count in (("a", 2_000), ("b", 500), ("c", 40)):
        rows = [json.dumps({"text": name * draw.randint(50, 150)}) + "\n" for _ in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(rows))

    def ingredient(name, **how):
        return Ingredient("json", Asked((str(tmp_path / f"{name}.jsonl"),)), name, **how)

    return ingredient


def _characters(documents):
    taken = {}
    for document in documents:
        taken[document.corpus] = taken.get(document.corpus, 0) + len(document.text)
    return taken


def _two_a_token(texts):
    return sum(len(text) // 2 for text in texts)


def test_all_of_every_corpus_the_target_first(corpora):
    mixture = Mixture([corpora("a"), corpora("b"), corpora("c", role="target")], seed=0)
    documents = list(mixture.documents())
    assert [document.id for document in documents[:41]] == [*(f"c:c.jsonl:{i}" for i in range(40)), "a:a.jsonl:0"]
    assert len(documents) == 2_540
    assert mixture.planned_characters() == sum(
        corpora(name).characters() for name in "abc"
    )  # what the files say of themselves


def test_a_number_of_tokens_is_met_to_a_document(corpora):
    mixture = Mixture([corpora("a", tokens=30_000), corpora("b")], seed=0)
    assert _characters(mixture.documents())["a"] == pytest.approx(120_000, abs=150)  # 4 a token, for want of better
    mixture.settle(_two_a_token)
    documents = list(mixture.documents())
    taken = _characters(documents)
    assert taken["a"] == pytest.approx(60_000, rel=0.01)
    assert taken["b"] == _characters(corpora("b").documents())["b"]
    assert mixture.planned_characters_of(mixture.ingredients[0]) == pytest.approx(60_000, rel=0.01)
    # By a hash of their ids, from beginning to end, in their order; the same again, others with another seed.
    numbers = [int(document.id.rpartition(":")[2]) for document in documents if document.corpus == "a"]
    assert numbers == sorted(numbers)
    assert 0.4 < sum(number < 1_000 for number in numbers) / len(numbers) < 0.6
    assert list(mixture.documents()) == documents
    other = Mixture(mixture.ingredients, seed=1)
    other.settle(_two_a_token)
    assert list(other.documents()) != documents


def test_more_tokens_than_there_are_is_all_of_it(corpora):
    mixture = Mixture([corpora("c", tokens=10**9)], seed=0)
    assert len(list(mixture.documents())) == 40
    assert mixture.planned_characters() == _characters(corpora("c").documents())["c"]


def test_weights_make_the_largest_mix_there_is(corpora):
    mixture = Mixture([corpora("a", weight=3), corpora("b", weight=1), corpora("c")], seed=0)
    # Twice as many characters of `a` go to a token.
    mixture.settle(lambda texts: sum(len(text) // (4 if text[0] == "a" else 2) for text in texts))
    taken = _characters(mixture.documents())
    whole = {name: _characters(corpora(name).documents())[name] for name in "abc"}
    assert taken["c"] == whole["c"]
    assert taken["a"] == pytest.approx(whole["a"], abs=1)  # 50,000 tokens: of `b`, which has 25,000, a third of that
    assert taken["b"] / 2 == pytest.approx(whole["a"] / 4 / 3, rel=0.02)
    # Another scarcest.
    mixture = Mixture([corpora("a", weight=1), corpora("b", weight=1)], seed=0)
    mixture.settle(_two_a_token)
    taken = _characters(mixture.documents())
    assert taken["b"] == whole["b"]
    assert taken["a"] == pytest.approx(whole["b"], rel=0.01)


def test_what_comes_well_mixed_gives_its_beginning(corpora, monkeypatch):
    monkeypatch.setattr(module, "_SAMPLE", 5_000)
    read = []

    def documents(asked):
        for document in CORPORA["json"].read(asked):
            read.append(document.id)
            yield document

    mixed = dataclasses.replace(CORPORA["json"], read=documents, mixed=True)
    monkeypatch.setitem(CORPORA, "stream", mixed)
    stream = dataclasses.replace(corpora("a", tokens=10_000), corpus="stream")
    mixture = Mixture([stream], seed=0)
    mixture.settle(_two_a_token)
    taken = list(mixture.documents())
    assert 20_000 <= _characters(taken)["a"] < 20_400
    assert [document.id for document in taken] == [f"a:a.jsonl:{i}" for i in range(len(taken))]
    assert len(read) < 300  # of 2,000: its sample, and what was taken


def test_a_corpus_without_text_gets_a_sentence(tmp_path, corpora):
    (tmp_path / "empty.jsonl").write_text('{"text": ""}\n')
    with pytest.raises(ValueError, match=r"^corpus 'empty' \(json\) holds no document$"):
        list(Mixture([corpora("a"), corpora("empty")], seed=0).documents())
    with pytest.raises(ValueError, match=r"^corpus 'empty' \(json\) holds no document$"):
        Mixture([corpora("a", weight=1), corpora("empty", weight=1)], seed=0)
    with pytest.raises(ValueError, match=r"^corpus 'c' \(json\) holds no document within what is taken of it$"):
        list(Mixture([corpora("c", tokens=1)], seed=0).documents())


def test_the_known_number_of_documents(corpora):
    web = Ingredient("openwebtext", name="web")
    assert Mixture([web], seed=0).known_documents == 8_013_769
    assert Mixture([web, corpora("a")], seed=0).known_documents is None
