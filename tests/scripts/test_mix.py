"""The study's pool: what is shuffled, what is kept, and the same bytes every time."""

import gzip
import json
from collections import Counter

import pytest

from scripts import mix
from scripts.mix import main


@pytest.fixture
def texts(tmp_path, monkeypatch):
    """Eight documents of one source and two of another, and no source code but three short files."""
    code = [mix.Document(f"code/{i}", f"def f{i}():\n    return {i}\n" * 20, "source") for i in range(3)]
    real = mix.read_corpus
    monkeypatch.setattr(mix, "read_corpus", lambda corpus, *a, **k: code if corpus != "json" else real(corpus, *a, **k))
    lines = [{"id": f"a{i}", "source": "a", "text": f" one two\n three {i} four five six seven"} for i in range(8)]
    lines += [{"id": f"b{i}", "source": "b", "text": f"other text {i}"} for i in range(2)]
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def read(path):
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["mix", *map(str, arguments)])
    return main()


def test_every_fourth_document_of_a_source_is_shuffled(texts, tmp_path, monkeypatch, capsys):
    out = tmp_path / "new" / "mix.jsonl.gz"
    assert run(monkeypatch, "--texts", texts, "--out", out) == 0
    documents = {document["id"]: document for document in read(out)}
    assert Counter(d["source"] for d in documents.values()) == {"a": 6, "b": 2, "source": 3, "shuffled": 2}
    assert "a3" not in documents
    shuffled = documents["shuffled:a3"]["text"]
    assert shuffled != " one two\n three 3 four five six seven"
    assert Counter(shuffled.split()) == Counter("one two three 3 four five six seven".split())
    assert documents["a0"]["text"] == " one two\n three 0 four five six seven"
    assert "shuffled" in capsys.readouterr().out
    again = tmp_path / "again.jsonl.gz"
    assert run(monkeypatch, "--texts", texts, "--out", again) == 0
    assert again.read_bytes() == out.read_bytes()


def test_a_homogeneous_pool_is_left_as_it_is(texts, tmp_path, monkeypatch, capsys):
    out = tmp_path / "only.jsonl.gz"
    assert run(monkeypatch, "--texts", texts, "--only", "b", "--out", out) == 0
    assert [document["id"] for document in read(out)] == ["b0", "b1"]
    assert run(monkeypatch, "--texts", texts, "--only", "c", "--out", out) == 2
    assert "no document has the source c" in capsys.readouterr().err
    assert run(monkeypatch, "--texts", tmp_path / "missing", "--out", out) == 2
    assert "missing" in capsys.readouterr().err
