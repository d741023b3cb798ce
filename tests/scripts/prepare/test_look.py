"""`prepare inspect`: what it says against the documents that the dataset was made of."""

import json
from collections import Counter

import pytest

from pipeline.dataset.manifest import SPLITS, Manifest
from pipeline.encoding.tokenizer import load_tokenizer
from scripts.prepare.__main__ import main
from scripts.prepare.look import Inspect, look

OPTIONS = [
    "--corpus",
    "json",
    "--vocab-size",
    "280",
    "--seq-len",
    "64",
    "--packing",
    "document",
    "--source-field",
    "kind",
]
OPTIONS += ["--target-fraction", "0.2", "--val-fraction", "0.2", "--test-fraction", "0.2", "--id-field", "name"]
TEXTS = {
    f"{kind}-{i}": (kind, " ".join([word] * (i % 9 + 1)))
    for kind, word in (("a", "fox"), ("b", "über"))
    for i in range(40)
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Every document fits into a sample of its own."""
    folder = tmp_path_factory.mktemp("corpus")
    with open(folder / "made.jsonl", "w") as file:
        for name, (kind, text) in TEXTS.items():
            file.write(json.dumps({"text": text, "kind": kind, "name": name}) + "\n")
    assert main([*OPTIONS, "--data-files", str(folder / "made.jsonl"), "--out", str(folder / "data")]) == 0
    return folder / "data"


@pytest.fixture(scope="module")
def answers(folder):
    return {answer.name: answer.table.to_pylist() for answer in look(Inspect(folder, samples=1))}


def test_splits_and_sources_are_the_manifest_s(folder, answers):
    manifest = Manifest.load(folder)
    assert [row["split"] for row in answers["splits"]] == list(SPLITS)
    for row in answers["splits"]:
        assert row["documents"] == row["samples"] == manifest.samples(row["split"])
        tokens = sum(shard.tokens for shard in manifest.shards[row["split"]])
        assert row["padding_share"] == pytest.approx(1 - tokens / (64 * row["samples"]))
    assert sum(row["documents"] for row in answers["sources"]) == len(TEXTS)
    for split in SPLITS:
        assert sum(row["share"] for row in answers["sources"] if row["split"] == split) == pytest.approx(1)


def test_lengths_and_fertility_are_those_of_the_documents(folder, answers):
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    tokens = {name: len(tokenizer.encode(text).ids) for name, (_, text) in TEXTS.items()}
    assert max(tokens.values()) <= 64
    bins = Counter(count.bit_length() - 1 for count in tokens.values())
    told = {row["tokens_from"]: sum(row[split] for split in SPLITS) for row in answers["lengths"]}
    assert told == {1 << i: bins[i] for i in range(max(bins) + 1)}
    longest = max(answers["lengths"], key=lambda row: sum(row[split] for split in SPLITS))
    assert longest["all_splits"] == "█" * 30
    for row in answers["fertility"]:
        of = {name: text for name, (kind, text) in TEXTS.items() if kind == row["source"]}
        assert row["spans"] == len(of)
        assert row["tokens"] == (total := sum(tokens[name] for name in of))
        assert row["tokens_a_word"] == pytest.approx(total / sum(len(text.split()) for text in of.values()))
        assert row["characters_a_token"] == pytest.approx(sum(map(len, of.values())) / total)


def test_samples_are_shown_as_text(answers):
    for split in SPLITS:
        (shown,) = [rows for name, rows in answers.items() if name.startswith(f"{split}_")]
        name, _, place = shown[0]["made_of"].partition(" ")
        kind, text = TEXTS[name]
        assert (shown[0]["text"], place) == (text, f"({kind}, 0-{len(text)})")


def test_the_command_prints_and_writes_a_page(folder, capsys):
    assert main(["inspect", str(folder), "--samples", "1", "--html"]) == 0
    told = capsys.readouterr().out
    assert "tokens a word" in told.replace("\n", " ")
    copies = len(TEXTS) - len({text for _, text in TEXTS.values()})
    assert f"duplicates: {copies} documents have the text of an earlier one, in 18 groups" in " ".join(told.split())
    assert max(map(len, told.splitlines())) <= max(100, len(str(folder)) + 40)
    page = (folder / "inspect.html").read_text()
    assert page.count("<details>") == len(SPLITS)
    assert "<svg" in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("http-equiv", "")


def test_what_is_no_dataset_or_no_number_gets_a_sentence(folder, tmp_path, capsys):
    assert main(["inspect", str(tmp_path)]) == 2
    assert "holds no manifest.json" in capsys.readouterr().err
    assert main(["inspect", str(folder), "--samples", "-1"]) == 2
    assert capsys.readouterr().err == "error: --samples is -1; it must not be negative\n"


def test_a_manifest_that_does_not_tell_lengths(folder):
    path = folder / "manifest.json"
    before = path.read_text()
    told = json.loads(before)
    for split in SPLITS:
        del told["splits"][split]["document_tokens"]
    path.write_text(json.dumps(told))
    try:
        (lengths,) = [answer for answer in look(Inspect(folder, samples=0)) if answer.name == "lengths"]
    finally:
        path.write_text(before)
    assert (lengths.table.num_rows, lengths.note) == (0, "The manifest does not tell: it is older than this count.")
