import json
import random

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from pipeline.encoding import tokenizer as module
from pipeline.encoding.tokenizer import (
    END_OF_TEXT,
    end_token,
    load_tokenizer,
    token_type,
    train_tokenizer,
    trained_tokenizer,
    vocabulary_size,
)

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


def test_a_kept_tokenizer_is_the_one_that_learnt_from_these_texts(tmp_path, monkeypatch):
    """Found again by text and size, it is not trained again; of other texts, another is."""
    trained = []
    train = module.train_tokenizer
    monkeypatch.setattr(module, "train_tokenizer", lambda *given: (trained.append(given), train(*given))[1])
    texts = [_text(seed) for seed in range(5)]
    first = trained_tokenizer(texts, 300, tmp_path)
    assert first.to_str() == train(iter(texts), 300).to_str()
    kept = trained_tokenizer(texts, 300, tmp_path)
    assert len(trained) == 1
    assert kept.to_str() == first.to_str()
    assert kept.encode(END_OF_TEXT).ids == first.encode(END_OF_TEXT).ids != [0]
    for others, size in ((texts, 299), (texts[1:], 300), (["".join(texts[:2]), *texts[2:]], 300)):
        assert trained_tokenizer(others, size, tmp_path).to_str() == train(iter(others), size).to_str()
    assert len(trained) == 4


def test_an_error_in_the_texts_reaches_the_caller(tmp_path):
    def texts():
        yield "text"
        raise ValueError("line 2 is no JSON")

    with pytest.raises(ValueError, match="line 2 is no JSON"):
        trained_tokenizer(texts(), 300, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_tokens_take_the_smaller_type(tokenizer):
    assert token_type(tokenizer) == np.dtype("<u2")
    wide = Tokenizer(models.BPE({END_OF_TEXT: 1 << 16}, []))
    assert token_type(wide) == np.dtype("<u4")


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
    with pytest.raises(
        ValueError, match=r"does not match: it has no token <\|endoftext\|> .*, and no tokenizer_config.json"
    ):
        load_tokenizer(path)


def test_the_end_of_a_document_is_the_one_the_tokenizers_configuration_names(tmp_path):
    path, config = tmp_path / "tokenizer.json", tmp_path / "tokenizer_config.json"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.add_special_tokens(["<s>", "</s>", END_OF_TEXT])
    tokenizer.save(str(path))
    assert end_token(path, tokenizer) == END_OF_TEXT
    for told, end in (({"eos_token": "</s>"}, "</s>"), ({"eos_token": {"content": "<s>"}}, "<s>"), ({}, END_OF_TEXT)):
        config.write_text(json.dumps(told))
        assert load_tokenizer(path).get_vocab_size() == 3
        assert end_token(path, tokenizer) == end
    config.write_text('{"eos_token": "</t>"}')
    with pytest.raises(ValueError, match=r"it has no token </t> to end documents, which .*_config.json names"):
        load_tokenizer(path)
    config.write_text("[]")
    with pytest.raises(ValueError, match=r"tokenizer_config.json is not the configuration of a tokenizer"):
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
