"""Tokens and their characters, against what `tokenizers` says of whole documents."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers

from pipeline.corpora.document import Document
from pipeline.encoding import documents as module
from pipeline.encoding.documents import Encoder
from pipeline.encoding.tokenizer import END_OF_TEXT, train_tokenizer

WORDS = ["the", "quick", "brown", "fox", "—", "über", "漢字", "🎉", "", "dogs\n\tand\r\n", "123", END_OF_TEXT, "fox's"]
TEXTS = st.lists(st.text("ab é漢🎉 \n<|endoftext|>", min_size=1, max_size=40), min_size=1, max_size=6)


def _text(seed, words=400):
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(words)) or "."


def _trained():
    return train_tokenizer((_text(seed) for seed in range(5)), 300)


@pytest.fixture(scope="module")
def tokenizer():
    return _trained()


def _encoded(encoder, texts):
    documents = [Document(f"d{i}", text, "s") for i, text in enumerate(texts)]
    tokens = encoder.encode(documents)
    return tokens, list(encoder.encoded(documents, tokens))


def _check(tokenizer, texts, told):
    """`told`: whether the places must be the tokenizer's own, the ids not telling them."""
    tokens, encoded = _encoded(Encoder(tokenizer), texts)
    assert (len(tokens.places) > 0) == told
    assert [one.document.text for one in encoded] == texts
    for one in encoded:
        expected = tokenizer.encode(one.document.text, add_special_tokens=False)
        assert one.ids.tolist() == expected.ids
        assert one.ids.dtype == np.uint16
        assert [one.characters(i, i + 1) for i in range(len(one.ids))] == expected.offsets


@settings(max_examples=150, deadline=None)
@given(TEXTS)
def test_the_ids_tell_the_characters(tokenizer, texts):
    _check(tokenizer, texts, told=False)


def test_tokens_that_were_added_whole():
    tokenizer = _trained()
    tokenizer.add_tokens(["  ", "漢字é"])
    _check(tokenizer, ["a  b", "über 漢字é   the", "  "], told=False)


@pytest.mark.parametrize("change", ["normalizer", "prefix", "removal", "strip"])
def test_tokenizers_whose_tokens_are_not_the_text_are_asked(change):
    tokenizer = _trained()
    if change == "normalizer":
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    elif change == "prefix":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    elif change == "removal":
        cut = pre_tokenizers.Split(Regex(r"\s+"), "removed")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    else:
        tokenizer.add_tokens([AddedToken("brown", lstrip=True)])
    _check(tokenizer, ["Überfox the  e\u0301 quick", "the quick   brown fox", "fox 🎉 dogs\n"], told=True)


@pytest.mark.parametrize("lowercase", [False, True])
def test_long_texts_in_pieces_give_the_same(lowercase, monkeypatch):
    tokenizer = _trained()
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    calls = []
    monkeypatch.setattr(module, "BATCH", 100)
    monkeypatch.setattr(module, "_cuts", lambda text, cuts=module._cuts: (calls.append(cuts(text)), cuts(text))[1])
    _check(tokenizer, [_text(seed, seed * 40) for seed in range(1, 12)], told=lowercase)
    assert max(map(len, calls)) > 5


def test_a_text_without_a_place_to_cut_is_cut_all_the_same(tokenizer, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 50)
    _, (one,) = _encoded(Encoder(tokenizer), ["漢" * 333])
    assert tokenizer.decode(one.ids.tolist()) == "漢" * 333
    assert one.characters(0, len(one.ids)) == (0, 333)


def test_end_of_text_in_a_text_is_text(tokenizer):
    _, (one,) = _encoded(Encoder(tokenizer), [f"a {END_OF_TEXT} b"])
    assert 0 not in one.ids
    assert tokenizer.decode(one.ids.tolist(), skip_special_tokens=False) == f"a {END_OF_TEXT} b"


def test_wide_vocabularies():
    tokenizer = _trained()
    tokenizer.add_tokens([f"word{i}" for i in range(1 << 16)])
    _, (one,) = _encoded(Encoder(Tokenizer.from_str(tokenizer.to_str())), ["word65535 the"])
    assert one.ids.dtype == np.uint32
    assert one.ids[0] == 65_835
    assert one.characters(0, 1) == (0, 9)
