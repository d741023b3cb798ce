"""The command line: what it prints, its exit codes, and what it leaves on the disk."""

import json
import os
import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from pipeline.dataset.manifest import Manifest
from scripts.prepare.__main__ import main

WORDS = ["a", "model", "reads", "text", "and", "predicts", "what", "comes", "next", "in", "it"]
OPTIONS = ["--corpus", "json", "--vocab-size", "280", "--seq-len", "16"]
OPTIONS += ["--target-fraction", "0.2", "--val-fraction", "0.2", "--test-fraction", "0.2"]


def _write(path, documents, words=60):
    draw = random.Random(0)
    with open(path, "w") as file:
        for _ in range(documents):
            file.write(json.dumps({"text": " ".join(draw.choices(WORDS, k=words)), "kind": "made"}) + "\n")
    return ["--data-files", str(path)]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return _write(tmp_path_factory.mktemp("corpus") / "made.jsonl", 100)


@pytest.fixture
def dataset(files, tmp_path, capsys):
    out = tmp_path / "data"
    assert main([*OPTIONS, *files, "--out", str(out)]) == 0
    capsys.readouterr()
    return out


def test_prepare_prints_its_table(dataset, capsys, files, tmp_path):
    assert main([*OPTIONS, *files, "--source-field", "kind", "--out", str(tmp_path / "again")]) == 0
    printed = capsys.readouterr().out
    manifest = Manifest.load(tmp_path / "again")
    for split in ("train", "target", "val", "test"):
        row = next(line for line in printed.splitlines() if f"│ {split} " in line)
        cells = [cell.strip() for cell in row.split("│")[1:-1]]
        (counts,) = manifest.sources[split].values()
        assert cells[1:4] == [str(counts["documents"]), str(manifest.samples(split)), f"{counts['tokens']:,}"]
    assert printed.count("│   made ") == 4
    assert f"train: {manifest.dropped_tokens['train']} tokens at its end fill no sample" in printed


def test_verify_says_that_a_dataset_is_whole(dataset, capsys):
    assert main(["verify", str(dataset)]) == 0
    assert "is whole: 4 shards, and the tokenizer is theirs" in capsys.readouterr().out


def test_verify_names_broken_shards(dataset, capsys):
    os.truncate(dataset / "val-000000.tar", 4096)
    (dataset / "test-000000.tar").unlink()
    assert main(["verify", str(dataset)]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert errors[0].startswith(f"shard {dataset}/val-000000.tar has 4096 bytes where the manifest says")
    assert errors[1].startswith(f"shard {dataset}/test-000000.tar is missing")
    assert errors[2] == f"{dataset} is broken: 2 of 4 shards"
    assert len(errors) == 3


def test_verify_drops_broken_shards(tmp_path, capsys):
    files = _write(tmp_path / "made.jsonl", 100)
    out = tmp_path / "data"
    assert main([*OPTIONS, *files, "--shard-size", "0.02", "--out", str(out)]) == 0
    before = Manifest.load(out)
    os.truncate(out / "train-000001.tar", 4096)
    assert main(["verify", str(out), "--drop"]) == 0
    told = capsys.readouterr()
    after = Manifest.load(out)
    lost = before.shards["train"][1].samples
    assert after.samples("train") == before.samples("train") - lost
    assert "train-000001.tar has 4096 bytes" in told.err
    assert f"{out} goes on without train-000001.tar: {after.samples('train'):,} of " in told.out
    assert main(["verify", str(out)]) == 0
    for path in out.glob("val-*.tar"):
        path.unlink()
    assert main(["verify", str(out), "--drop"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: every shard of split val of {out} is broken")
    assert Manifest.load(out).sha256 == after.sha256


def test_duplicates_are_told(files, tmp_path, capsys):
    options = [*OPTIONS, "--source-field", "kind", "--out", str(tmp_path / "data")]
    copied = tmp_path / "twice" / "made.jsonl"  # of the same name: it stands in the ids
    copied.parent.mkdir()
    copied.write_text(2 * Path(files[1]).read_text())
    listed = "duplicates: 100 documents have the text of an earlier one, in 100 groups; they are kept, and listed in"
    assert main([*options, "--data-files", str(copied)]) == 0
    assert listed in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "data")]) == 0
    assert listed in capsys.readouterr().out
    (tmp_path / "data" / "duplicates.parquet").unlink()
    assert main(["verify", str(tmp_path / "data")]) == 1
    assert capsys.readouterr().err == (
        f"{tmp_path}/data/duplicates.parquet is missing: restore it or prepare the dataset again\n"
    )
    out = ["--data-files", str(copied), "--out"]
    assert main([*options, *out, str(tmp_path / "dropped"), "--duplicates", "drop", "--near-duplicates", "0.9"]) == 0
    told = "duplicates: 100 documents have the text of an earlier one, 0 are like one (similarity 0.9), and are dropped"
    assert told in capsys.readouterr().out
    dropped, once = Manifest.load(tmp_path / "dropped"), tmp_path / "once"
    assert main([*options, *files, "--out", str(once), "--duplicates", "keep"]) == 0
    assert "duplicates: not looked for" in capsys.readouterr().out
    assert dropped.shards == Manifest.load(once).shards
    assert main([*options, *files, "--out", str(tmp_path / "none")]) == 0
    assert "duplicates: none" in capsys.readouterr().out
    target = tmp_path / "target.jsonl"
    target.write_text("".join(Path(files[1]).read_text().splitlines(keepends=True)[:60]))
    assert main([*options, *files, "--target-files", str(target), "--out", str(tmp_path / "aimed")]) == 0
    assert "60 documents of the pool are held out too, and are dropped from it" in capsys.readouterr().out
    assert Manifest.load(tmp_path / "aimed").sources["train"]["made"]["documents"] == 40


def _refused(capsys, arguments, sentence):
    assert main(arguments) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert sentence in errors
    assert "Traceback" not in errors
    assert errors.count("\n") == 1


def test_verify_refuses_what_is_no_dataset(dataset, tmp_path, capsys):
    _refused(capsys, ["verify", str(tmp_path)], "holds no manifest.json, so it is no finished dataset")
    (dataset / "tokenizer.json").write_text("{}")
    _refused(capsys, ["verify", str(dataset)], "is not the tokenizer that the shards were made with")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--data-files", "missing/*.jsonl"], "--data-files: no file matches 'missing/*.jsonl'"),
        (["--text-field", "body"], "made.jsonl, line 1 has no field 'body' (it has text, kind): see --text-field"),
        (["--source-field", "origin"], "line 1 has no field 'origin'"),
        (["--id-field", "key"], "line 1 has no field 'key'"),
        (["--target-sources", "news"], "No document has the target source news; sources: made"),
        (["--val-fraction", "0.000000001"], "split val has no sample"),
        (["--val-fraction", "0.9"], "nothing is left to train on"),
        (["--val-fraction", "0"], "the val fraction is 0.0; it must lie between 0 and 1"),
        (["--vocab-size", "100"], "vocab_size is 100; it must be at least 257"),
        (["--seq-len", "0"], "--seq-len is 0; it must be at least 1"),
        (["--shard-size", "0"], "--shard-size is 0.0; it must be above 0"),
        (["--near-duplicates", "0.3"], "--near-duplicates is 0.3; it must lie between 0.5 and 1"),
        (["--near-duplicates", "0.8", "--duplicates", "keep"], "--duplicates keep does not: leave one of them out"),
        (["--seed", "-1"], "--seed is -1; it must not be negative"),
        (["--tokenizer", "gpt2"], "--vocab-size is for a tokenizer to be trained"),
        (["--corpus", "parquet"], "made.jsonl cannot be read"),
        (["--corpus", "openwebtext"], "corpus openwebtext reads no --data-files"),
        (["--recipe", "mix.toml"], "--recipe lists the corpora and their options: leave out --corpus, --data-files"),
        (["--target-files", "mine.doc"], "--target-files: the name of mine.doc tells no format"),
        (["--target-files", "mine.txt"], "corpus 'target' (text): --data-files: no file matches 'mine.txt'"),
        (["--target-files", "a.txt", "--target-sources", "b"], "are made of other corpora than the pool: leave out"),
    ],
)
def test_bad_options_get_a_sentence_and_exit_code_2(files, tmp_path, capsys, options, sentence):
    _refused(capsys, [*OPTIONS, *files, "--out", str(tmp_path / "data"), *options], sentence)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [["--corpus", "pile"], ["--packing", "tight"], ["--no-such", "1"], ["--seed", "x"]])
def test_wrong_words_get_exit_code_2(files, tmp_path, capsys, options):
    with pytest.raises(SystemExit) as ended:
        main([*OPTIONS, *files, "--out", str(tmp_path / "data"), *options])
    assert ended.value.code == 2
    assert options[0] in capsys.readouterr().err


def test_a_tokenizer_that_does_not_match(files, tmp_path, capsys):
    options = [*(option for option in OPTIONS if option not in ("--vocab-size", "280")), *files]
    options += ["--out", str(tmp_path / "data")]
    path = tmp_path / "other.json"
    _refused(capsys, [*options, "--tokenizer", str(path)], "cannot load the tokenizer")
    Tokenizer(models.BPE()).save(str(path))
    _refused(capsys, [*options, "--tokenizer", str(path)], "does not match: it has no token <|endoftext|>")
    assert list(tmp_path.iterdir()) == [path]


def test_an_output_folder_that_cannot_be_used(files, dataset, tmp_path, capsys):
    arguments = [*OPTIONS, *files, "--out"]
    (tmp_path / "file").write_text("text")
    _refused(capsys, [*arguments, str(tmp_path / "file" / "data")], "file/data.partial cannot be made there")
    _refused(capsys, [*arguments, str(tmp_path / "file")], "exists and is no empty folder")
    _refused(capsys, [*arguments, str(dataset)], "is a finished dataset: remove it or choose another folder")
    _refused(capsys, [*arguments, "/proc/data"], "/proc/data.partial cannot be made there")


def test_a_hub_out_of_reach(tmp_path, capsys, monkeypatch):
    import datasets

    def load_dataset(*args, **kwargs):
        raise ConnectionError("Couldn't reach 'Skylion007/openwebtext' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    _refused(capsys, ["--corpus", "openwebtext", "--out", str(tmp_path / "data")], "Couldn't reach 'Skylion007")
    assert list(tmp_path.iterdir()) == []
