import random

import pytest
from tokenizers import Tokenizer, models

from pipeline.corpora.document import Document
from pipeline.prepare import tokenizer as module
from pipeline.prepare.tokenizer import END_OF_TEXT, encode_documents, load_tokenizer, train_tokenizer, vocabulary_size

WORDS = ["the", "quick", "brown", "fox", "—", "über", "漢字", "🎉", "", "dogs\n\tand\r\n", "123", END_OF_TEXT, "fox's"]


def _text(seed, words=400):
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(words))


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer((_text(seed) for seed in range(5)), 300)


def test_training(tokenizer):
    assert vocabulary_size(tokenizer) == 300
    assert tokenizer.token_to_id(END_OF_TEXT) == 0
    again = train_tokenizer((_text(seed) for seed in range(5)), 300)
    assert again.to_str() == tokenizer.to_str()
    with pytest.raises(ValueError, match="vocab_size is 256; it must be at least 257"):
        train_tokenizer(iter(["text"]), 256)


@pytest.mark.parametrize("batch", [1_000_000, 100])
def test_encoding_loses_nothing(tokenizer, monkeypatch, batch):
    """Also when long texts are encoded in pieces: the same tokens, at the same characters."""
    documents = [Document(str(seed), _text(seed, seed * 40), "s") for seed in range(1, 12)]
    whole = [tokenizer.encode(document.text, add_special_tokens=False) for document in documents]
    monkeypatch.setattr(module, "_BATCH", batch)
    encoded = list(encode_documents(tokenizer, iter(documents)))
    assert [one.document for one in encoded] == documents
    if batch == 100:
        assert max(len(one.pieces) for one in encoded) > 5
    for one, expected in zip(encoded, whole, strict=True):
        assert one.ids.tolist() == expected.ids
        assert tokenizer.decode(one.ids.tolist(), skip_special_tokens=False) == one.document.text
        assert 0 not in one.ids  # <|endoftext|> in a text is text
        for token, offsets in enumerate(expected.offsets):
            assert one.characters(token, token + 1) == offsets


def test_a_text_without_a_place_to_cut_is_cut_all_the_same(tokenizer, monkeypatch):
    monkeypatch.setattr(module, "_BATCH", 50)
    (one,) = encode_documents(tokenizer, [Document("d", "漢" * 333, "s")])
    assert tokenizer.decode(one.ids.tolist()) == "漢" * 333
    assert one.characters(0, len(one.ids)) == (0, 333)


def test_an_error_in_the_documents_reaches_the_caller(tokenizer):
    def documents():
        yield Document("d", "text", "s")
        raise ValueError("line 2 is no JSON")

    with pytest.raises(ValueError, match="line 2 is no JSON"):
        list(encode_documents(tokenizer, documents()))
    with pytest.raises(ValueError, match="line 2 is no JSON"):
        train_tokenizer((document.text for document in documents()), 300)


def test_loading(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=50)
    tokenizer.save(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    loaded = load_tokenizer(path)
    text = "the fox jumps <|endoftext|> over"
    assert loaded.encode(text).ids == tokenizer.encode(text).ids


def test_unfit_tokenizers_get_a_sentence(tmp_path, monkeypatch):
    path = tmp_path / "other.json"
    with pytest.raises(ValueError, match=r"cannot load the tokenizer '.*other.json' .*tokenizer.json file"):
        load_tokenizer(path)
    path.write_text("{}")
    with pytest.raises(ValueError, match="cannot load the tokenizer"):
        load_tokenizer(path)
    Tokenizer(models.BPE()).save(str(path))
    with pytest.raises(ValueError, match=r"does not match: it has no token <\|endoftext\|>"):
        load_tokenizer(path)


def test_gpt2_comes_from_the_hub(tokenizer, monkeypatch):
    asked = []

    class Hub:
        @staticmethod
        def from_pretrained(name):
            asked.append(name)
            return Tokenizer.from_str(tokenizer.to_str())

    monkeypatch.setattr(module, "Tokenizer", Hub)
    assert load_tokenizer("gpt2").to_str() == tokenizer.to_str()
    assert asked == ["gpt2"]
