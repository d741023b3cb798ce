"""The prepare benchmark: every way makes the same tokens of the same text, and each gets its figures."""

import json

import numpy as np
import pytest

from pipeline.corpora.document import Document
from pipeline.dataset.reader import SplitReader
from pipeline.encoding.tokenizer import train_tokenizer
from scripts.bench.__main__ import main
from scripts.bench.data import prepare as module


@pytest.fixture
def folder(tmp_path):
    documents = [Document(str(i), f"über {i} " + "the quick brown fox " * (i % 7 + 1), "s") for i in range(40)]
    for part in module.PARTS_OF_TEXT:
        module.write_text(documents, module._texts(tmp_path, part), 0.064 / part)
    train_tokenizer((document.text for document in documents), 300).save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_text_is_repeated_turned(folder):
    assert module._size(folder, 1) == pytest.approx(0.064, abs=0.0003)
    assert module._size(folder, 16) == pytest.approx(0.004, abs=0.0003)
    texts = [json.loads(line)["text"] for line in open(module._texts(folder, 1))]  # noqa: SIM115
    assert texts[40] != texts[0]
    assert sorted(texts[40]) == sorted(texts[0])


def test_every_way_makes_the_tokens_of_our_samples(folder, tmp_path):
    out = tmp_path / "theirs"
    out.mkdir()
    module._nanogpt(folder, out, 1, 16)
    theirs = np.memmap(out / "train.bin", dtype=np.uint16, mode="r")
    mapped = [token for ids in module._map(folder, out, 1, 16)["ids"] for token in [*ids, 0]]
    assert theirs.tolist() == mapped
    module._ours(folder, tmp_path / "ours", 1, 16)
    ours = [SplitReader(tmp_path / "ours", split) for split in ("train", "target", "val", "test")]
    counts = sum(np.bincount(reader.tokens(range(reader.samples))[:, 1:].ravel(), minlength=300) for reader in ours)
    lost = np.bincount(theirs, minlength=300) - counts
    assert 0 <= lost.sum() <= 4 * 17  # the first token and the incomplete last sample of each split
    assert lost.min() >= 0


def test_a_figure_has_the_processes_of_its_way(folder):
    told = module.measure(module._ours, folder, 1, 16)
    assert told["seconds"] > 0
    assert 0 < told["cores"] < 60
    assert 20 < told["memory"] < 4000
    assert not (folder / "out").exists()


def test_the_tables(folder, capsys, monkeypatch):
    monkeypatch.setattr(module, "WAYS", {"prepare": module._ours})
    monkeypatch.setattr(module, "LENGTHS", (16, 8))
    text = module._texts(folder, 16)
    options = ["--megabytes", "0.2", "--rounds", "1", "--workers", "1", "--vocab-size", "300", "--seq-len", "16"]
    assert main(["prepare", "--text", str(text), *options]) == 0
    told = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in told.splitlines() if line.startswith("│")]
    assert [row[0] for row in rows] == ["tokenizer alone", "prepare", "0.0", "0.1", "0.2", "16", "8"]
    assert rows[0][4] == "1.00x"
    assert float(rows[1][3].split()[0]) == pytest.approx(
        float(rows[0][3].split()[0]) * float(rows[1][4].rstrip("x")), rel=0.1
    )
    assert 1 < float(rows[5][1]) < float(rows[6][1])  # shorter samples have more spans and headers


def test_a_file_of_no_text_is_refused(tmp_path, capsys):
    (tmp_path / "none.jsonl").write_text('{"text": ""}\n')
    assert main(["prepare", "--text", str(tmp_path / "none.jsonl")]) == 2
    assert "none.jsonl holds no document" in capsys.readouterr().err
