"""Parts of a corpus: the same whatever the number of processes, taken over where they are of the same text."""

import os
import random
import signal

import pytest

from pipeline.corpora.document import Document
from pipeline.encoding import parts as module
from pipeline.encoding.documents import Encoder
from pipeline.encoding.parts import PartEncoder, encode_documents
from pipeline.encoding.tokenizer import train_tokenizer
from pipeline.interrupted import Interrupted

WORDS = ["the", "quick", "brown", "fox", "über", "漢字", "🎉", "123"]


def _documents(count=60, words=50):
    draw = random.Random(0)
    return [Document(f"d{i}", " ".join(draw.choices(WORDS, k=draw.randint(1, words))), "s") for i in range(count)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer((document.text for document in _documents()), 300)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(module, "PART", 1000)


def _told(encoded):
    return [(one.document, one.ids.tolist(), one.places.tolist()) for one in encoded]


def _files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_processes_gives_the_same(tokenizer, tmp_path, workers):
    documents = _documents()
    encoder = Encoder(tokenizer)
    expected = _told(encoder.encoded(documents, encoder.encode(documents)))
    (tmp_path / "one").mkdir()
    (tmp_path / "several").mkdir()
    list(encode_documents(tokenizer, documents, tmp_path / "one", 1))
    assert _told(encode_documents(tokenizer, iter(documents), tmp_path / "several", workers)) == expected
    assert _files(tmp_path / "several") == _files(tmp_path / "one")
    assert len(_files(tmp_path / "one")) > 5


def test_each_process_encodes_on_one_thread(tokenizer, tmp_path, monkeypatch):
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    seen = [os.environ["TOKENIZERS_PARALLELISM"] for _ in encode_documents(tokenizer, _documents(), tmp_path, 1)]
    assert set(seen) == {"false"}
    assert "TOKENIZERS_PARALLELISM" not in os.environ


def test_what_is_whole_and_of_this_text_is_taken_over(tokenizer, tmp_path, capsys, monkeypatch):
    documents = _documents()
    expected = _told(encode_documents(tokenizer, documents, tmp_path, 1))
    files = _files(tmp_path)
    assert capsys.readouterr().err == ""
    first, second, *_ = names = sorted(files)
    (tmp_path / first).unlink()
    damaged = bytearray(files[second])
    damaged[-1] ^= 1
    (tmp_path / second).write_bytes(damaged)
    (tmp_path / names[2]).write_bytes(files[names[2]][:-7])
    made = []
    encode = Encoder.encode
    monkeypatch.setattr(Encoder, "encode", lambda self, some: (made.append(some), encode(self, some))[1])
    assert _told(encode_documents(tokenizer, documents, tmp_path, 1)) == expected
    assert len(made) == 3
    assert _files(tmp_path) == files
    told = capsys.readouterr().err
    assert f"{len(files) - 3} of {len(files)} parts of the text were encoded by an earlier run" in told


def test_another_text_or_tokenizer_is_encoded_anew(tokenizer, tmp_path, capsys):
    documents = _documents()
    list(encode_documents(tokenizer, documents, tmp_path, 1))
    changed = [*documents[:30], Document("d30", "another text", "s"), *documents[31:]]
    encoder = Encoder(tokenizer)
    expected = _told(encoder.encoded(changed, encoder.encode(changed)))
    assert _told(encode_documents(tokenizer, changed, tmp_path, 1)) == expected
    other = train_tokenizer(iter(["the quick brown fox"]), 270)
    capsys.readouterr()
    encoder = Encoder(other)
    expected = _told(encoder.encoded(documents, encoder.encode(documents)))
    assert _told(encode_documents(other, documents, tmp_path, 1)) == expected
    assert "earlier run" not in capsys.readouterr().err


def test_two_texts_that_end_to_end_are_the_same_are_two(tokenizer, tmp_path):
    encoder = PartEncoder(tmp_path, tokenizer.to_str())
    one, _ = encoder.part(0, [Document("a", "the fox", "s"), Document("b", "fox", "s")])
    two, found = encoder.part(0, [Document("a", "the ", "s"), Document("b", "foxfox", "s")])
    assert (one != two, found) == (True, False)


def test_a_part_that_changes_under_way_is_noticed(tokenizer, tmp_path):
    encoder = PartEncoder(tmp_path, tokenizer.to_str())
    documents = _documents(5)
    path, _ = encoder.part(0, documents)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(Interrupted, match=r"000000-.*part has changed since it was written"):
        encoder.read(path, documents)


def test_an_error_in_the_documents_reaches_the_caller(tokenizer, tmp_path):
    def documents():
        yield from _documents()
        raise ValueError("line 61 is no JSON")

    for workers in (1, 2):
        with pytest.raises(ValueError, match="line 61 is no JSON"):
            list(encode_documents(tokenizer, documents(), tmp_path, workers))


def test_a_killed_process_gets_a_sentence(tokenizer, tmp_path, monkeypatch):
    pools = []
    pool = module.ProcessPoolExecutor
    monkeypatch.setattr(module, "ProcessPoolExecutor", lambda *given: (pools.append(pool(*given)), pools[-1])[1])
    encoded = encode_documents(tokenizer, _documents(400), tmp_path, 2)
    next(encoded)
    for process in list(pools[0]._processes):
        os.kill(process, signal.SIGKILL)
    with pytest.raises(Interrupted, match=r"was killed, by hand or for want of memory: .*fewer --workers"):
        list(encoded)


def test_one_part_needs_no_other_process(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ProcessPoolExecutor", None)
    monkeypatch.setattr(module, "PART", 1_000_000)
    assert len(list(encode_documents(tokenizer, _documents(), tmp_path, 8))) == 60
    assert list(encode_documents(tokenizer, [], tmp_path, 8)) == []
